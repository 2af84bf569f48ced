"""`golf report`: what a run did, where its bytes went and what its model finds hard, as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from golf import host as hosts
from golf.contracts import DataError, RunResult, Sink, emit
from golf.data import local, shards, stream
from golf.data import tokenizer as tokenizers
from golf.data.tokenizer import Tokenizer
from golf.eval.sampling import Sampling
from golf.host import write_atomic
from golf.publish.board import lineage
from golf.publish.render import render
from golf.publish.report import anatomy, probe
from golf.publish.report.anatomy import StreamBytes, TensorBytes
from golf.publish.report.figures import Plots
from golf.publish.report.probe import Bucket, Passage, Reading
from golf.publish.submit import runs
from golf.publish.submit.runs import Run
from golf.publish.terminal import ProgressBar
from golf.publish.use import generating, scoring
from golf.publish.use.convert import recall
from golf.publish.use.generating import Text
from golf.publish.use.source import Source, open_source
from golf.quant import hessian
from golf.train import checkpoint


@dataclass
class Findings:
    """What one run's page shows. `gaps` says, section by section, what could not be measured and why."""

    run: Run
    label: str
    streams: list[StreamBytes]
    tensors: list[TensorBytes]
    calibrated: int = 0
    tokens: int = 0
    bpb: float | None = None
    kind: str = ""
    by_place: list[Bucket] = field(default_factory=list)
    by_age: list[Bucket] = field(default_factory=list)
    by_length: list[Bucket] = field(default_factory=list)
    easy: list[Passage] = field(default_factory=list)
    hard: list[Passage] = field(default_factory=list)
    samples: list[Text] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    @property
    def result(self) -> RunResult:
        return self.run.result

    @property
    def tax(self) -> float:
        """What quantization costs in bits per byte; adapting to the text is no part of it."""
        fixed = self.result.val_bpb_fixed
        return (self.result.val_bpb if fixed is None else fixed) - self.result.val_bpb_unquantized

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [event for event in self.run.events if event["event"] == "step"]

    @property
    def ledger(self) -> list[tuple[str, int]]:
        result = self.result
        counted = [("weights", result.bytes_model), ("code", result.bytes_code)]
        counted += [("tokenizer", result.bytes_tokenizer)] if result.tokenizer_counted else []
        return [*counted, ("headroom", result.bytes_cap - result.bytes_total)]

PROMPT, SAMPLE, HEAT = 32, 120, 0.8  # tokens, tokens, temperature


def write(paths: Sequence[Path], output: Path, tokens: int) -> list[Findings]:
    """Examine one run or two and write their page. Raises DataError for more, or a folder that is no run."""
    if len(paths) > 2:
        raise DataError(f"a report shows one run or compares two, got {len(paths)}")
    folders = [find_run(path) for path in paths]
    with ProgressBar() as bar:
        findings = [examine(folder, tokens, bar) for folder in folders]
    for found, label in zip(findings, _labels(folders)):
        found.label = label
    write_atomic(output, page(findings).encode())
    return findings


def _labels(folders: Sequence[Path]) -> list[str]:
    """`record seed 7`; the whole path where that does not tell two apart."""
    short = [f"{folder.resolve().parent.name} seed {folder.name}" for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def find_run(path: Path) -> Path:
    """The folder of one seed: `path` itself, or the only one below it. Raises DataError when there are several."""
    found = runs.find([path])
    if len(found) > 1:
        names = ", ".join(str(each) for each in found)
        raise DataError(f"{path} holds {len(found)} seeds; a report is of one: {names}")
    return found[0]


def examine(path: Path, tokens: int, sink: Sink) -> Findings:
    """Measure what the page shows. tokens: how much validation text is read closely; 0 reads none.

    Text and calibration come from the run's own corpus; where this machine does not have it, the page says so.
    """
    run = runs.read(path)
    data = (path / "artifact.golf").read_bytes()
    weights, _ = checkpoint.load_weights(path / "weights.safetensors")
    source, gaps, found = open_source(path), [], Findings(run, path.name, anatomy.streams(data), [])
    try:
        folder: Path | None = recall(path)
    except DataError as error:
        folder = None
        gaps.append(f"Errors are not weighted by inputs and no text is read: {error}.")
    hessians: dict[str, Any] = {}
    if folder is not None and (plan := run.recipe.get("quant", {}).get("calibration")):
        emit(sink, "score", what="calibration", done=0, total=3)
        hessians, found.calibrated = _calibrate(source, weights, run, folder, plan)
    emit(sink, "score", what="tensors", done=1, total=3)
    found.tensors = anatomy.tensors(data, weights, hessians)
    if folder is not None and tokens:
        emit(sink, "score", what="text", done=2, total=3)
        _read(found, source, folder, tokens)
    emit(sink, "score", what="text", done=3, total=3)
    found.gaps = gaps
    return found


def _calibrate(
    source: Source, weights: dict[str, Any], run: Run, folder: Path, plan: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """Hessians of the averaged weights on the run's own calibration sample."""
    try:
        train = shards.find(folder, "train")
    except DataError:  # a corpus of which only the validation text was fetched
        return {}, 0
    model = source.build()
    model.load_state_dict(weights)
    windows = stream.sample(
        train, count=plan["sequences"], rows=plan["rows"], seq_len=run.recipe["train"]["seq_len"],
        seed=run.result.seed,
    )  # fmt: skip
    with hosts.join() as host:
        collected = hessian.collect(model.to(host.device), windows, host=host)
    return {name: H_KK.cpu() for name, H_KK in collected.by_name.items()}, collected.tokens


def _read(found: Findings, source: Source, folder: Path, count: int) -> None:
    """Score the beginning of the validation text twice: as the run was scored, and in plain windows."""
    speaker = Tokenizer(source.tokenizer)
    everything = local.tokens_of(folder, speaker)
    tokens_N = everything[: min(count, len(everything))].astype("int64")
    table, bos = tokenizers.byte_table(source.tokenizer), speaker.bos
    how = scoring.evaluation(source.about["eval"])
    window = how.plain.window
    with hosts.join() as host:
        model = source.build().to(host.device)
        reading = probe.read(model, tokens_N, table, how, bos, host)
        plain = probe.read(model, tokens_N, table, probe.plain(window), bos, host)
    found.tokens, found.kind, found.bpb = len(tokens_N), how.kind, reading.bpb(1, len(tokens_N))
    found.by_place, found.by_age = probe.by_place(plain, window), probe.by_age(reading)
    found.by_length = probe.by_length(reading)
    found.easy, found.hard = probe.passages(reading, speaker)
    if hasattr(model, "read_on"):
        found.samples = _samples(found.run.path, speaker, reading)


def _samples(path: Path, speaker: Tokenizer, reading: Reading) -> list[Text]:
    """What the model writes by itself, and after the beginning of a validation document."""
    begin, end = next(iter(reading.documents), (1, len(reading.tokens_N)))
    prompts = ("", speaker.decode(reading.tokens_N[begin : min(begin + PROMPT, end)].tolist()))
    return generating.continue_texts(
        path, None, prompts, tokens=SAMPLE, sampling=Sampling(temperature=HEAT), seed=0, window=None,
        write=lambda number, piece: None,
    )  # fmt: skip


def page(findings: Sequence[Findings]) -> str:
    """One run, or two beside each other, as an HTML document that needs nothing else."""
    labels = [found.label for found in findings]
    plots = Plots(findings)
    changes = []
    if len(findings) > 1:
        changes = lineage.changes(findings[0].run.recipe, findings[1].run.recipe)
    return render(
        "report.html.j2",
        findings=findings,
        labels=labels,
        curves=plots.curves(),
        bytes_plot=plots.tensor_bytes(),
        error_plot=plots.errors(),
        text_plots=plots.text(),
        changes=changes,
        facts=[_facts(found) for found in findings],
        captions=[[(p, lineage.caption(s)) for p, s in f.run.recipe.items() if isinstance(s, dict)] for f in findings],
    )


def _facts(found: Findings) -> dict[str, Any]:
    """Numbers for the tables, by label; the two columns of a comparison have the same rows."""
    result, model = found.result, found.run.event("model")
    return {
        "bits per byte": f"{result.val_bpb:.5f}, {result.eval_kind}",
        "in plain windows": f"{result.val_bpb_roundtrip:.5f}",
        "before quantization": f"{result.val_bpb_unquantized:.5f}",
        "quantization costs": f"{found.tax:+.5f}",
        "nats a token": f"{result.val_loss:.5f}",
        "tokens scored": f"{result.tokens_scored:,}",
        "bytes scored": f"{result.bytes_scored:,}",
        "bytes in all": f"{result.bytes_total:,}",
        "of a cap of": f"{result.bytes_cap:,}",
        "parameters": f"{result.parameters:,}",
        "bits a weight": f"{8 * result.bytes_model / result.parameters:.2f}",
        "steps": f"{result.steps:,}",
        "tokens trained on": f"{result.train_tokens:,}, {result.supervised_tokens:,} of them as targets",
        "training": f"{result.train_seconds:.1f} s",
        "quantizing and packing": f"{result.quantize_seconds:.1f} s",
        "scoring": f"{result.eval_seconds:.1f} s",
        "stopped by": result.stopped,
        "scale multiplier": f"{result.scale_multiplier:.4f}",
        "seed": result.seed,
        "track": result.track,
        "hardware": result.hardware,
        **result.versions,
        "recipe": result.recipe_digest,
        "corpus": f"{result.corpus}, {result.corpus_sha256}",
        "tokenizer": result.tokenizer_sha256,
        "artifact": result.artifact_sha256,
        "source": model.get("code_sha256", "not in the log"),
    }


def values(found: Findings) -> dict[str, Any]:
    """What was measured, as plain values."""
    return {
        "run": str(found.run.path),
        "result": asdict(found.result),
        "streams": [asdict(row) for row in found.streams],
        "tensors": [asdict(row) for row in found.tensors],
        **{name: [asdict(row) for row in getattr(found, name)] for name in ("by_place", "by_age", "by_length")},
        "gaps": found.gaps,
    }
