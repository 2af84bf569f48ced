"""One run measured for its report: its bytes, what rounding did and costs, what its model finds hard and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from golf import host as hosts
from golf.contracts import DataError, RunResult, Sink, emit
from golf.data import local, shards, speaking, stream
from golf.data.tokenizer import Tokenizer
from golf.eval.sampling import Sampling
from golf.host import Host
from golf.publish.files import ARTIFACT, TOKENIZER, WEIGHTS
from golf.publish.report import anatomy, probe, tax
from golf.publish.report.anatomy import StreamBytes, TensorBytes
from golf.publish.report.probe import Bucket, Passage, Reading
from golf.publish.report.tax import Tax
from golf.publish.submit import runs
from golf.publish.submit.runs import Run
from golf.publish.use import generating, scoring
from golf.publish.use.convert import recall
from golf.publish.use.generating import Text
from golf.publish.use.source import Source, open_source
from golf.quant import hessian
from golf.train import checkpoint

PROMPT, SAMPLE, HEAT = 32, 120, 0.8  # tokens, tokens, temperature


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
    tax: Tax | None = None
    gaps: list[str] = field(default_factory=list)

    @property
    def result(self) -> RunResult:
        return self.run.result

    @property
    def paid(self) -> float:
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


def examine(path: Path, tokens: int, seconds: float, sink: Sink) -> Findings:
    """Measure what the page shows. tokens: how much validation text is read closely; 0 reads none.
    seconds: for measuring what rounding each tensor costs; 0 measures nothing of it.

    Text and calibration come from the run's own corpus; where this machine does not have it, or the run's folder not
    the artifact, the page says so.
    """
    run = runs.read(path)
    found = Findings(run, path.name, [], [])
    lacking = [name for name in (ARTIFACT, WEIGHTS, TOKENIZER) if not (path / name).is_file()]
    if lacking:
        found.gaps.append(f"{path} no longer holds {', '.join(lacking)}: nothing is said of bytes, errors and text.")
        return found
    data = (path / ARTIFACT).read_bytes()
    weights, _ = checkpoint.load_weights(path / WEIGHTS)
    source, found.streams = open_source(path), anatomy.streams(data)
    try:
        folder = recall(path)
    except DataError as error:
        found.gaps.append(f"Errors are not weighted by inputs and no text is read: {error}.")
        found.tensors = anatomy.tensors(data, weights, {})
        return found
    with hosts.join() as host:
        emit(sink, "score", what="calibration", done=0, total=3)
        untouched = source.build().to(host.device)
        untouched.load_state_dict(weights)
        plan, hessians = run.recipe.get("quant", {}).get("calibration"), {}
        if plan and (sample := _sample(run, folder, plan["sequences"], plan["rows"])):
            collected = hessian.collect(untouched, sample, host=host)
            hessians = {name: H_KK.cpu() for name, H_KK in collected.by_name.items()}
            found.calibrated = collected.tokens
        elif plan:
            found.gaps.append(
                "The training text is not here as shards of one corpus (a mixture's is drawn from several): errors are "
                "not weighted by inputs, and what rounding costs is not measured."
            )
        emit(sink, "score", what="tensors", done=1, total=3)
        found.tensors = anatomy.tensors(data, weights, hessians)
        if seconds and found.calibrated:
            found.tax = _assess(run, source, untouched, folder, seconds, host, sink)
        if tokens:
            emit(sink, "score", what="text", done=2, total=3)
            _read(found, source, folder, tokens, host)
    emit(sink, "score", what="text", done=3, total=3)
    return found


def _sample(run: Run, folder: Path, count: int, rows: int) -> list[Tensor]:
    """Windows of training text as the run drew them to calibrate; none of a corpus whose validation text alone is
    here."""
    try:
        train = shards.find(folder, "train")
    except DataError:
        return []
    length = run.recipe["train"]["seq_len"]
    return list(stream.sample(train, count=count, rows=rows, seq_len=length, seed=run.result.seed))


def _assess(
    run: Run, source: Source, untouched: nn.Module, folder: Path, seconds: float, host: Host, sink: Sink
) -> Tax:
    """What rounding each tensor costs, on validation text from all over."""
    speaker, width = speaking.speaker(source.tokenizer), scoring.evaluation(source.about["eval"]).plain.window
    everything = local.tokens_of(folder, speaker)
    text_BT = tax.windows(everything[: len(everything)], width, speaker.vocab)
    return tax.assess(
        untouched, source.weights, _sample(run, folder, max(tax.CURVED // run.recipe["train"]["seq_len"], 1), 1),
        text_BT, bytes_per_token=run.result.bytes_scored / run.result.tokens_scored, seconds=seconds, host=host,
        sink=sink,
    )  # fmt: skip


def _read(found: Findings, source: Source, folder: Path, count: int, host: Host) -> None:
    """Score the beginning of the validation text twice: as the run was scored, and in plain windows."""
    speaker = speaking.speaker(source.tokenizer)
    everything = local.tokens_of(folder, speaker)
    tokens_N = everything[: min(count, len(everything))].astype("int64")
    table, bos = speaking.byte_table(source.tokenizer), speaker.bos
    how = scoring.evaluation(source.about["eval"])
    window = how.plain.window
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
