"""The plots of a report. With two runs each has its own color, dash and marker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from golf.publish.report import plots, tax
from golf.publish.report.plots import Drawn
from golf.publish.report.probe import Bucket

if TYPE_CHECKING:
    from golf.publish.report.examine import Findings

MOST = 24  # bars of a plot; the table has all


class Plots:
    """Draws for one page."""

    def __init__(self, findings: Sequence[Any]) -> None:
        """findings: those of `examine`; of a run that has not finished its curves alone can be drawn."""
        self._findings, self._page = findings, plots.Page()

    def curves(self) -> list[Drawn]:
        """What the log of training holds, step by step."""
        wanted = (
            ("loss", "training loss, nats a token", "Training loss."),
            ("lr", "learning rate, share of the peak", "Learning rate."),
            ("tokens_per_second", "tokens a second", "Throughput."),
            ("grad_norm", "norm of the gradients", "Gradients before clipping."),
        )
        return [self._curve(*each) for each in wanted]

    def _curve(self, name: str, axis: str, caption: str) -> Drawn:
        with self._page.plot(caption) as plot:
            for place, found in enumerate(self._findings):
                steps = [step for step in found.steps if name in step]
                xs, ys = [step["step"] for step in steps], [step[name] for step in steps]
                plot.line(xs, ys, place, self._label(found), marker=plots.MARKERS[place], markersize=3)
            plot.say("step", axis)
            if name != "loss":
                plot.axes.set_ylim(bottom=0)
        return Drawn(plot.svg, caption)

    def _label(self, found: Findings) -> str | None:
        return found.label if len(self._findings) > 1 else None

    def tensor_bytes(self) -> Drawn | None:
        """The largest tensors by their share of the file."""
        if not self._findings[0].tensors:
            return None
        return self._bars(
            "bytes", "kilobytes", 1e-3, "Bytes by tensor, largest first: shares of streams, split by entropy."
        )

    def _bars(self, field: str, axis: str, scale: float, caption: str) -> Drawn:
        first = sorted(self._findings[0].tensors, key=lambda row: -getattr(row, field))[:MOST]
        names = [row.name for row in first]
        with self._page.plot(caption, height=0.7 + 0.19 * len(names)) as plot:
            for place, found in enumerate(self._findings):
                known = {row.name: getattr(row, field) * scale for row in found.tensors}
                offsets = [index + 0.38 * place for index in range(len(names))]
                hatch = {"hatch": "///", "fill": False, "edgecolor": plots.SERIES[1]} if place else {}
                plot.axes.barh(offsets, [known.get(name, 0.0) for name in names], 0.36 if len(self._findings) > 1 else
                               0.7, color=plots.SERIES[place], label=self._label(found), **hatch)  # fmt: skip
            plot.axes.set_yticks(range(len(names)), names, fontsize=8)
            plot.axes.invert_yaxis()
            plot.axes.grid(axis="y", visible=False)
            plot.say(axis, "")
        return Drawn(plot.svg, caption)

    def errors(self) -> Drawn | None:
        """Rounding errors beside those of plain rounding at as many bits."""
        rows = [row for row in self._findings[0].tensors if row.nearest and row.parameters > 1]  # one fits any step
        rows = sorted(rows, key=lambda row: -row.error)[:MOST]
        if not rows:
            return None
        weighted = any(row.weighted for row in rows)
        how = "weighted by the inputs each weight meets" if weighted else "in plain squares"
        caption = f"Share of a layer's output that rounding moved, {how}; left of the square is better than rounding."
        with self._page.plot(caption, height=0.8 + 0.19 * len(rows)) as plot:
            ys = list(range(len(rows)))
            plot.points([row.nearest for row in rows], ys, 1, "to nearest, same bits")
            plot.points([row.error for row in rows], ys, 0, "as stored")
            for place, found in enumerate(self._findings[1:], 2):
                known = {row.name: row.error for row in found.tensors}
                xs = [_positive(known.get(row.name)) for row in rows]
                plot.points(xs, ys, place, f"{found.label}, as stored")
            plot.by_ratio()
            plot.axes.set_yticks(ys, [row.name for row in rows], fontsize=8)
            plot.axes.invert_yaxis()
            plot.say("error", "", legend=False)
            plot.figure.legend(loc="outside upper right", fontsize=8, ncols=3)
        return Drawn(plot.svg, caption)

    def costs(self) -> Drawn | None:
        """What rounding a tensor was foretold to cost and was measured to, the costliest first."""
        known = [found.tax.measured if found.tax else {} for found in self._findings]
        loud = [name for name, cost in known[0].items() if cost >= tax.RESOLVED]
        names = sorted(loud, key=lambda name: -known[0][name])[:MOST]
        if not names:
            return None
        caption = "What rounding one tensor alone costs, foretold by curvature and measured."
        with self._page.plot(caption, height=0.8 + 0.19 * len(names)) as plot:
            ys = list(range(len(names)))
            plot.points([_positive(self._findings[0].tax.costs[name].predicted) for name in names], ys, 1, "foretold")
            plot.points([_positive(known[0][name]) for name in names], ys, 0, "measured")
            for place, (found, costs) in enumerate(zip(self._findings[1:], known[1:]), 2):
                plot.points([_positive(costs.get(name)) for name in names], ys, place, f"{found.label}, measured")
            plot.by_ratio()
            plot.axes.set_yticks(ys, names, fontsize=8)
            plot.axes.invert_yaxis()
            plot.say("bits per byte", "", legend=False)
            plot.figure.legend(loc="outside upper right", fontsize=8, ncols=3)
        return Drawn(plot.svg, caption)

    def text(self) -> list[Drawn]:
        """Bits per byte by place, where text was read."""
        wanted = (
            ("by_place", "tokens of the window before it", "By place in the window: what context is worth."),
            ("by_age", "tokens of its document before it", "By place in the document."),
            ("by_length", "tokens of the document", "By length of the document."),
        )
        return [self._buckets(*each) for each in wanted if any(getattr(f, each[0]) for f in self._findings)]

    def _buckets(self, name: str, axis: str, caption: str) -> Drawn:
        sides: list[list[Bucket]] = [getattr(found, name) for found in self._findings]
        labels = list(dict.fromkeys(bucket.label for side in sides for bucket in side))
        labels.sort(key=lambda label: int(label.split("–")[0]))
        with self._page.plot(caption) as plot:
            for place, (found, side) in enumerate(zip(self._findings, sides)):
                xs = [labels.index(bucket.label) for bucket in side]
                ys = [bucket.bpb for bucket in side]
                plot.line(xs, ys, place, self._label(found), marker=plots.MARKERS[place], markersize=5)
            plot.axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
            plot.say(axis, "bits per byte")
        return Drawn(plot.svg, caption)


def _positive(value: float | None) -> float:
    """For a logarithmic axis, on which nothing is drawn where there is no number."""
    return value if value else float("nan")
