"""What a person sees while golf works, and the tables at the end."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from golf.contracts import ByteLedger, Event, RunResult
from golf.events import lines
from golf.publish.baselines import Baseline
from golf.publish.files import Verdict

if TYPE_CHECKING:  # it loads the whole corridor
    from golf.publish.use.perplexity import Perplexity
    from golf.publish.use.scoring import Scored

# Events that say how far a stage has come, and those that begin a stage whose end cannot be foreseen.
STAGES = {
    "data": "corpus", "calibrate": "calibrate", "step": "train", "score": "score", "fetch": "fetch",
    "layers": "quantize", "verify": "verify",
}  # fmt: skip
OPEN_STAGES = {"reserve": "compile", "fit": "quantize"}


class ProgressBar:
    """A sink that draws one bar for the stage at work; where there is no terminal it prints plain lines."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._lines = lines(lambda text: print(text, file=sys.stderr, flush=True))
        self._bar = Progress(
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=14),  # everything fits into 80 columns
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self._task: TaskID | None = None
        self._stage = ""

    def __enter__(self) -> ProgressBar:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        if not self.console.is_terminal:
            self._lines(event)
            return
        if event.kind in STAGES:
            self._draw(STAGES[event.kind], event.values)
        elif event.kind in OPEN_STAGES:
            self._enter(OPEN_STAGES[event.kind], total=None)
            if event.kind == "fit":
                facts = f"attempt {event.values['attempt']}: {event.values['bytes']:,} bytes"
                self._bar.update(self._task, facts=facts)
        elif event.kind == "warmup":
            facts = f"{event.values['backend']}, {event.values['seconds']:.0f} s"
            self._bar.update(self._task, facts=facts, total=1.0, completed=1.0)

    def _enter(self, stage: str, total: float | None) -> None:
        """Begin a stage: fill up the bar of the one before and draw a new one."""
        if stage == self._stage:
            return
        if self._task is not None:
            self._bar.update(self._task, total=1.0, completed=1.0, left="")
            self._bar.stop_task(self._task)
        self._stage = stage
        self._task = self._bar.add_task(stage, total=total, facts="", left="")

    def _draw(self, stage: str, values: Mapping[str, Any]) -> None:
        self._enter(stage, total=1.0)
        share = values["progress"] if "progress" in values else values["done"] / max(values["total"], 1)
        seconds_left = values.get("seconds_left")
        left = f"{_clock(seconds_left)} left" if seconds_left is not None else self._guess(share)
        self._bar.update(self._task, completed=min(share, 1.0), facts=_facts(stage, values), left=left)

    def _guess(self, share: float) -> str:
        elapsed = self._bar.tasks[-1].elapsed
        return f"{_clock(elapsed * (1 - share) / share)} left" if elapsed and 0.02 < share < 1 else ""


def _facts(stage: str, values: Mapping[str, Any]) -> str:
    if stage == "train":
        return f"loss {values['loss']:.3f} lr x{values['lr']:.2f} {values['tokens_per_second']:,.0f} tok/s"
    return str(values.get("what", ""))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run_table(result: RunResult, baselines: Sequence[Baseline]) -> Table:
    """The table at the end of a run: the score, what it cost in bytes and seconds, what others reach."""
    table = Table(title=f"{result.track}  seed {result.seed}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("note", style="dim")
    table.add_row("bits per byte", f"[bold]{result.val_bpb:.4f}", f"read back from the artifact, {result.eval_kind}")
    if result.val_bpb_fixed not in (None, result.val_bpb):
        table.add_row("  fixed predictor", f"{result.val_bpb_fixed:.4f}", "the same without adaptation")
    table.add_row("  plain windows", f"{result.val_bpb_roundtrip:.4f}", "read back from the artifact, no overlap")
    fixed = result.val_bpb if result.val_bpb_fixed is None else result.val_bpb_fixed
    tax = fixed - result.val_bpb_unquantized
    table.add_row("  before quantization", f"{result.val_bpb_unquantized:.4f}", f"quantization tax {tax:+.4f}")
    for baseline in baselines:
        note = f"alone {baseline.alone:.4f}, after training text {baseline.primed:.4f}"  # in 80 columns
        table.add_row(f"  {baseline.name}", f"{baseline.bpb:.4f}", note)
    table.add_section()
    table.add_row("bytes", f"[bold]{result.bytes_total:,}", f"{result.bytes_cap - result.bytes_total:,} under the cap")
    table.add_row("  weights", f"{result.bytes_model:,}", f"{result.parameters:,} parameters")
    table.add_row("  code", f"{result.bytes_code:,}", "the one-file train_gpt.py")
    counted = "trained by this run, counted" if result.tokenizer_counted else "a stock one, counted as 0"
    table.add_row("  tokenizer", f"{result.bytes_tokenizer:,}", counted)
    table.add_section()
    steps = f"{result.steps:,} steps, {result.train_tokens:,} tokens"
    table.add_row("training", f"{result.train_seconds:.1f} s", steps)
    if result.supervised_tokens != result.train_tokens:
        table.add_row("  supervised", f"{result.supervised_tokens:,}", "tokens whose prediction was trained")
    multiplier = f"scale multiplier {result.scale_multiplier:.3f}"
    table.add_row("quantize, pack", f"{result.quantize_seconds:.1f} s", multiplier)
    scored = f"{result.tokens_scored:,} tokens, {result.bytes_scored:,} bytes"
    table.add_row("score", f"{result.eval_seconds:.1f} s", scored)
    table.add_section()
    table.add_row("corpus", result.corpus, f"sha256 {result.corpus_sha256[:16]}")
    return table


def seeds_table(name: str, results: Sequence[RunResult], failed: Mapping[int, str]) -> Table:
    """Several seeds of one recipe, their mean and their sample standard deviation."""
    table = Table(title=name, title_justify="left")
    for column in ("seed", "bits per byte", "before quantization", "bytes", "training"):
        table.add_column(column, justify="right")
    for result in results:
        scores = (f"{result.val_bpb:.5f}", f"{result.val_bpb_unquantized:.5f}")
        table.add_row(str(result.seed), *scores, f"{result.bytes_total:,}", f"{result.train_seconds:.1f} s")
    for seed, why in failed.items():
        table.add_row(str(seed), "[bold red]failed", escape(why))
    if len(results) > 1:
        table.add_section()
        scores = [result.val_bpb for result in results]
        spread = f"{statistics.fmean(scores):.5f}", f"± {statistics.stdev(scores):.5f} (n - 1)"
        table.add_row("mean", *spread, f"{max(result.bytes_total for result in results):,}", "")
    return table


def score_table(name: str, scored: Scored, seconds: float, text: Perplexity | None = None) -> Table:
    """A score in bits per byte, its kind and what it is of; perplexities where the text was a file."""
    table = Table(title=name, title_justify="left", show_header=False)
    score = scored.score
    table.add_row("bits per byte", f"[bold]{score.bpb:.4f}", scored.kind)
    if scored.fixed is not None:
        table.add_row("  fixed predictor", f"{scored.fixed.bpb:.4f}", f"adapting {score.bpb - scored.fixed.bpb:+.4f}")
    if text is not None:
        table.add_row("  of the file", f"{text.text_bpb:.4f}", f"its {text.text_bytes:,} bytes")
        table.add_row("perplexity per word", f"{text.word_perplexity:,.2f}", f"{text.words:,} words and line ends")
        table.add_row("perplexity per token", f"{text.token_perplexity:,.2f}", "of this tokenizer")
    table.add_row("nats per token", f"{score.loss:.4f}")
    table.add_row("tokens scored", f"{score.tokens:,}")
    table.add_row("bytes scored", f"{score.bytes:,}")
    table.add_row("seconds", f"{seconds:.1f}")
    return table


def task_table(name: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Zero-shot tasks: each metric with its standard error."""
    table = Table(title=name, title_justify="left")
    for column in ("task", "questions", "metric", "value", "standard error"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task, values in found.items():
        for metric, value in values.items():
            if metric != "questions" and not metric.endswith("_stderr"):
                error = values.get(f"{metric}_stderr")
                spread = "" if error is None else f"{error:.4f}"
                table.add_row(task, str(values["questions"]), metric, f"[bold]{value:.4f}", spread)
    return table


def check_table(name: str, ledger: ByteLedger | None, verdicts: Sequence[Verdict]) -> Table:
    """What `golf check` compared, a row a comparison, and what is counted against the cap."""
    table = Table(title=name, title_justify="left")
    table.add_column("check")
    table.add_column("verdict")
    table.add_column("seen")
    for verdict in verdicts:
        word = {True: "pass", False: "[bold red]FAIL", None: "note"}[verdict.ok]
        table.add_row(verdict.what, word, escape(verdict.why))
    if ledger is None:
        return table
    table.add_section()
    parts = f"code {ledger.code:,} + model {ledger.blob:,} + tokenizer {ledger.tokenizer:,}"
    table.add_row("ledger", f"{ledger.headroom:,} left", parts)
    return table


def quantize_table(report: dict) -> Table:
    """Per tensor: what it is, how it was stored, bits a weight by its histogram, how much of its output moved; or,
    where the quantization knows, bits as they are coded and what the tensor is predicted to cost in bits per byte."""
    knows = all(row.get("tax") is not None for row in report["tensors"])
    table = Table(title=report["artifact"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("tensor", no_wrap=True)
    table.add_column("role" if knows else "method", no_wrap=True)  # both do not fit into 80 columns; --json has them
    for name in ("parameters", "step", "bits", *(("coded", "tax") if knows else ("error",))):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report["tensors"]:
        first = [row["name"], row["role" if knows else "method"], f"{row['parameters']:,}"]
        step = f"{row['scale']:.3g}" if row["scale"] else ""
        coded = f"{row['coded']:.2f}" if row.get("coded") else ""
        last = [coded, f"{row['tax']:.1e}"] if knows else [f"{row['error']:.1e}"]
        table.add_row(*first, step, f"{row['bits']:.2f}", *last)
    table.add_section()
    cap = f"of {report['cap']:,}" if report["cap"] else ""
    size, times = f"{report['bytes_model']:,}", f"x{report['scale_multiplier']:.3f}"
    whole = [f"{sum(row['tax'] for row in report['tensors']):.1e}"] if knows else []
    table.add_row("bytes", "", size, cap, "", times, *whole)
    return table
