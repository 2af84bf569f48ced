"""Plots as SVG inside a page: matplotlib draws, the page's style sheet colors, so that dark mode is only a variable.

Every series has a marker or a dash of its own besides its color.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from golf.contracts import SpecError

# Colors that occur nowhere else and become variables of the page: text, lines of the grid, and one for each series.
INK, GRID = "#010203", "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
MARKERS, DASHES = "osD^vP", ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
ROW = "row:"  # a link of a point: `row:7` leads to the element with id row-7
_VARIABLES = {INK: "--ink", GRID: "--line"} | {color: f"--c{place + 1}" for place, color in enumerate(SERIES)}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and sized
    "svg.hashsalt": "golf",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


class Drawn(NamedTuple):
    """A finished plot as it goes into a page. caption: what stands below it."""

    svg: str
    caption: str


def library() -> Any:
    """matplotlib, without a display. Raises SpecError when it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise SpecError("plots need matplotlib: pip install 'golf[report]'") from error
    return matplotlib


class Page:
    """Draws the plots of one page; each gets names of its own, so that they can stand in one document."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @contextmanager
    def plot(self, label: str, *, width: float = 4.8, height: float = 2.9) -> Iterator[Plot]:
        """A plot to draw on in `with`; its `svg` is there afterwards. label: what it shows, for readers aloud."""
        from matplotlib.figure import Figure

        with library().rc_context(_STYLE):
            figure = Figure(figsize=(width, height))
            drawn = Plot(figure, figure.subplots())
            yield drawn
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn.svg = _inline(text.getvalue(), f"p{next(self._numbers)}", label)


class Plot:
    """One plot. figure, axes: matplotlib's.  svg: the finished picture."""

    svg: str = ""

    def __init__(self, figure: Any, axes: Any) -> None:
        self.figure, self.axes = figure, axes

    def line(
        self, xs: Sequence[Any], ys: Sequence[float], place: int = 0, label: str | None = None, **how: Any
    ) -> None:
        self.axes.plot(xs, ys, color=SERIES[place % 6], linestyle=DASHES[place % 6], label=label, **how)

    def points(
        self, xs: Sequence[Any], ys: Sequence[float], place: int = 0, label: str | None = None,
        links: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        look = {"color": SERIES[place % 6], "marker": MARKERS[place % 6]}
        dots = self.axes.scatter(xs, ys, s=26, label=label, zorder=3, **look)
        if links is not None:
            dots.set_urls([f"{ROW}{link}" for link in links])

    def by_ratio(self) -> None:
        """x by its logarithm, with few labels: those that matplotlib adds within one decade run into each other."""
        from matplotlib import ticker

        self.axes.set_xscale("log")
        self.axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=6))
        self.axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
        self.axes.xaxis.set_minor_formatter(ticker.NullFormatter())

    def say(self, x: str, y: str, *, legend: bool = True) -> None:
        """Label the axes; the legend appears where something carries a label."""
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        if legend and self.axes.get_legend_handles_labels()[0]:
            self.axes.legend(fontsize=9)


def _inline(document: str, prefix: str, label: str) -> str:
    """The svg element of a document, with variables for colors, names of its own and a label."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    names = r'(id="|xlink:href="#|url\(#)'
    svg = re.sub(names, lambda match: match[1] + prefix + "-", svg)
    svg = svg.replace(f'xlink:href="{ROW}', 'href="#row-').replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    opening = svg[: svg.index(">")]
    kept = re.sub(r' (width|height|xmlns:xlink|version)="[^"]*"', "", opening)
    label = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'{kept} role="img" aria-label="{label}"{svg[len(opening) :]}'
