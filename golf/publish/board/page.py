"""The leaderboard as a table on the terminal, as plain values and as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from golf.publish.board.ranking import Group, Row
from golf.publish.render import render
from golf.publish.report import plots
from golf.publish.report.plots import Drawn

HIDDEN = ("recipe", "number", "before_number", "runs")


class Column(NamedTuple):
    """key: the row's attribute.  title: of the column.  number: right-aligned, sorted by value."""

    key: str
    title: str
    number: bool = True


COLUMNS = (
    Column("name", "name", False),
    Column("val_bpb", "bits per byte"),
    Column("val_bpb_std", "± seeds"),
    Column("delta", "against the best before"),
    Column("bytes_total", "bytes"),
    Column("headroom", "headroom"),
    Column("train_seconds", "training s"),
    Column("parameters", "parameters"),
    Column("bits_per_weight", "bits a weight"),
    Column("verified", "verified", False),
    Column("date", "date", False),
    Column("author", "author", False),
)


def values(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Everything as plain values, for --json."""
    return [
        {"track": group.track, "corpus_sha256": group.corpus, "eval_kind": group.kind,
         "rows": [_plain(row) for row in group.rows], "pareto": [row.name for row in group.pareto]}
        for group in groups
    ]  # fmt: skip


def _plain(row: Row) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(row).items() if name not in HIDDEN}
    return plain | {"headroom": row.headroom, "changes": [change._asdict() for change in row.changes]}


def table(group: Group) -> Table:
    """One group on the terminal; a dash is what is not stated."""
    corpus = f"{group.kind}, corpus {group.corpus[:16]}" if group.corpus else "corpus not stated"
    drawn = Table(title=f"{group.track or 'track not stated'}  {corpus}", title_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 1, 0, 0))  # fmt: skip
    for title in ("name", "bits per byte", "best before", "bytes", "parameters", "train", "verified"):
        drawn.add_column(title, justify="left" if title in ("name", "verified") else "right", overflow="fold")
    for row in group.rows:
        score = f"{_text(row.val_bpb, '.5f')}\n± {_text(row.val_bpb_std, '.5f')} ({len(row.seeds)})"
        change = "-" if row.delta is None else f"{-row.delta:+.5f}\np {_text(row.p, '.2g')}"
        size = f"{_text(row.bytes_total, ',')}\n{_text(row.headroom, ',')} left"
        model = f"{_text(row.parameters, ',')}\n{_text(row.bits_per_weight, '.2f')} bits"
        checked = {True: "yes", False: "no"}.get(row.verified, "-")
        drawn.add_row(escape(row.name), score, change, size, model, f"{_text(row.train_seconds, '.0f')} s", checked)
    return drawn


def _text(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def page(groups: Sequence[Group], title: str) -> str:
    """The whole board as one HTML document that needs nothing else."""
    draw = plots.Page()
    return render(
        "board.html.j2",
        title=title,
        groups=groups,
        columns=COLUMNS,
        plots=[_plots(group, draw) for group in groups],
        fronts=[{row.number for row in group.pareto} for group in groups],
    )


def _plots(group: Group, draw: plots.Page) -> list[Drawn]:
    """Score over time and bytes against score, where at least two points say something."""
    drawn = []
    dated = [row for row in group.scored if row.date is not None]
    if len({row.date for row in dated}) > 1:
        drawn.append(_over_time(group, dated, draw))
    sized = [row for row in group.scored if row.bytes_total is not None]
    if len(sized) > 1:
        drawn.append(_bytes(group, sized, draw))
    return drawn


def _over_time(group: Group, dated: Sequence[Row], draw: plots.Page) -> Drawn:
    with draw.plot("Score over time, with the best so far as a line") as plot:
        days = [date.fromisoformat(row.date) for row in dated]
        plot.points(days, [row.val_bpb for row in dated], 0, "one entry", [str(row.number) for row in dated])
        best = group.records
        xs = [date.fromisoformat(row.date) for row in best] + [max(days)]
        plot.line(xs, [row.val_bpb for row in [*best, best[-1]]], 1, "best so far", drawstyle="steps-post")
        plot.axes.tick_params("x", rotation=30)
        _say(plot, "")
    return Drawn(plot.svg, "Score over time. A point leads to its row.")


def _bytes(group: Group, sized: Sequence[Row], draw: plots.Page) -> Drawn:
    with draw.plot("Bytes against score, with the Pareto front as a line") as plot:
        front = group.pareto
        sizes = [row.bytes_total / 1e6 for row in sized]
        plot.points(sizes, [row.val_bpb for row in sized], 0, "one entry", [str(row.number) for row in sized])
        plot.line([row.bytes_total / 1e6 for row in front], [row.val_bpb for row in front], 2, "Pareto front",
                  drawstyle="steps-post", marker="D", markersize=4)  # fmt: skip
        plot.axes.ticklabel_format(axis="x", useOffset=False)
        plot.axes.locator_params(axis="x", nbins=4)  # sizes under one cap differ in the fifth digit
        _say(plot, "million bytes")
    return Drawn(plot.svg, "Bytes against score. Nothing is both left of the front and below it.")


def _say(plot: plots.Plot, axis: str) -> None:
    """The legend stands outside: points and the front may lie in any corner."""
    plot.say(axis, "bits per byte", legend=False)
    plot.figure.legend(loc="outside upper right", fontsize=8, ncols=2)
