"""`golf quantize`: weights on disk as an artifact; and where the texts of a run's scores lie."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from golf import host as hosts
from golf import recipe as recipes
from golf.arch import apart, symmetries
from golf.contracts import Corpus, DataError, HessianError, Hessians, QTensor, RunResult, Sink, emit, quiet
from golf.data import ids as token_ids
from golf.data import local, shards, speaking, stream
from golf.host import Host, write_atomic
from golf.pack import container, spent
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.pack.remembered import Remembered
from golf.pack.zstd import Zstd
from golf.publish.files import read_result
from golf.publish.use import curves
from golf.publish.use.efforts import EFFORTS
from golf.publish.use.source import Source, open_source
from golf.quant import abreast, forked, reach, refine, report, symmetry
from golf.quant.aimed import Aimed
from golf.quant.apply import Calibration, Plan, QuantSpec
from golf.quant.beam import Beam
from golf.quant.squeeze import Squeeze
from golf.quant.trellis import Trellis


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    """What `golf quantize` can be told with --set."""

    quant: Plan = field(default_factory=QuantSpec)
    pack: PackSpec = field(default_factory=lambda: PackSpec(codec=Zstd()))


# Tokens of calibration text that the squeeze reads at a time: time and memory of attention grow with them.
TOGETHER = 1024


def squeeze(effort: str, window: int) -> QuantizeSettings:
    """The most for the bytes, of a model that is scored in windows of so many tokens."""
    chosen, window = EFFORTS[effort], min(window, TOGETHER)
    calibration = Calibration(sequences=max(1, chosen.tokens // window), rows=TOGETHER // window)
    two_grids = Beam(survivors=chosen.survivors) if chosen.survivors else Trellis()
    every = dict.fromkeys(("matrix", "head", "embed"), two_grids)
    quant = Aimed(**every, calibration=calibration, learn=chosen.steps)
    return QuantizeSettings(quant=quant, pack=PackSpec(codec=Rans()))


def quantize_weights(
    path: Path,
    output: Path,
    record: Path | None,
    cap: int | None,
    calibration: Path | None,
    assignments: Sequence[str],
    sink: Sink,
    *,
    effort: str = "default",
    curve: Path | None = None,
    reference: Path | None = None,
) -> dict[str, Any]:
    """Quantize and pack a weights file; the tokenizer is written beside the artifact. Returns the report.

    effort: of EFFORTS, where no record says how to quantize.  curve: picture of bytes against tax to draw as well,
    beside the points of the file `reference`.
    Raises BudgetError when no setting reaches `cap` and HessianError when a method needs calibration text.
    """
    if curve is not None:
        curves.check(curve, reference)
    output.parent.mkdir(parents=True, exist_ok=True)  # rather find out now that it cannot be written
    source = open_source(path)
    source.check_finite()
    settings = quantize_settings(record, assignments, squeeze(effort, source.about["eval"]["window"]))
    model = source.build()
    reach.check(source.weights, model.roles(), settings.quant, cap)
    codec = Remembered(settings.pack.codec)
    pack = replace(settings.pack, codec=codec)

    def size_of(qtensors: dict) -> int:
        if squeezes:
            codec.prepare([shared.stream for shared in spent.streams(qtensors)], forked.each)
        return len(container.dump(qtensors, source.about, pack))

    squeezes = isinstance(settings.quant, Squeeze)
    with hosts.join() as host, alone(host.device) if squeezes else nullcontext():
        model.to(host.device)
        batches = list(calibration_batches(source, settings.quant, calibration) or ())
        with refine.overheard(model, batches if squeezes else ()) as answers:
            known = collect(settings.quant, model, batches, host, sink).by_name if batches else {}
        hosts.give_back_memory()  # what threads freed is several times what all that follows needs
        weights = {name: W.to(host.device) for name, W in source.weights.items()}
        roles = model.roles()
        if squeezes:
            weights, known = symmetry.settle(weights, known, symmetries.of(model.spec))
            model.load_state_dict(weights)
        fitted = settings.quant.fit(weights, roles, known, size_of=size_of, cap=cap, sink=sink)
        if squeezes:
            fitted = settings.quant.refine(
                fitted, model, known, batches, size_of=size_of, cap=cap, host=host, sink=sink, answers=answers
            )
    blob = container.dump(fitted.qtensors, source.about, pack)
    write_atomic(output, blob)
    if source.spelled:
        write_atomic(output.with_suffix(".tokenizer.model"), source.spelled)
    ratio = _tokens_per_byte(source, batches) if batches and (source.spelled or curve) else None

    bits = _coded(fitted.qtensors) if isinstance(settings.pack.codec, Rans) else {}

    def described(named: tuple[str, QTensor]) -> dict[str, Any]:
        (row,) = report.rows(weights, dict([named]), known)
        return asdict(row) | _costs(row, bits.get(row.name), ratio)

    result = {
        "artifact": str(output),
        "bytes_model": len(blob),
        "cap": cap,
        "scale_multiplier": fitted.multiplier,
        "tensors": abreast.each(described, fitted.qtensors.items()),
    }
    if curve is not None:
        points = curves.trace(model.cpu(), weights, known, settings.quant, batches, size_of, sink)
        result["curve"] = [asdict(point.per_byte(ratio)) for point in points]
        curves.draw(result["curve"], curve, reference)
    return result


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """One thread for each piece of work, and attention that leaves out what other documents hide."""
    with abreast.alone(), apart.on(device):
        yield


def collect(plan: Plan, model: nn.Module, batches: Sequence[Tensor], host: Host, sink: Sink) -> Hessians:
    """What the plan needs to know; curvature in threads of which the first tells how far it is."""

    def read(part: Sequence[Tensor], host: Host) -> Hessians:
        return plan.collect(model, watched(part, sink if host.is_main else quiet), host=host)

    return abreast.in_parts(read, batches, host) if isinstance(plan, Squeeze) else read(batches, host)


def watched(batches: Sequence[Tensor], sink: Sink) -> Iterator[Tensor]:
    """The batches, each reported as it is handed out."""
    for done, ids_BT in enumerate(batches):
        emit(sink, "calibrate", done=done, total=len(batches))
        yield ids_BT


def _coded(qtensors: Mapping[str, QTensor]) -> dict[str, float]:
    """Bits that rans takes for each tensor, steps included."""
    found: dict[str, float] = {}
    for shares in map(spent.spent, spent.streams(qtensors)):
        for name, bits in shares.items():
            found[name] = found.get(name, 0.0) + bits
    return found


def _costs(row: report.Row, bits: float | None, tokens_per_byte: float | None) -> dict[str, float | None]:
    """coded: bits a weight as the codec stores them, steps included.  tax: predicted, bits per byte.  None where
    nobody knows, or for tensors so small that they share what a stream costs in itself."""
    coded = None if bits is None or row.parameters < 1024 else bits / row.parameters
    tax = None if row.loss is None or tokens_per_byte is None else row.loss / math.log(2) * tokens_per_byte
    return {"coded": coded, "tax": tax}


def _tokens_per_byte(source: Source, batches: Sequence[Tensor]) -> float:
    """In calibration text, whose documents may begin anywhere."""
    table = speaking.byte_table(source.tokenizer)
    spelled = sum(int(table.count(ids[:, :-1].numpy(), ids[:, 1:].numpy()).sum()) for ids in batches)
    return sum(ids[:, 1:].numel() for ids in batches) / max(spelled, 1)


def quantize_settings(
    record: Path | None, assignments: Sequence[str], settings: QuantizeSettings = QuantizeSettings()
) -> QuantizeSettings:
    """Those of a record, or `settings`, with `path=value` texts applied."""
    if record is not None:
        recipe = recipes.load(record)
        settings = QuantizeSettings(quant=recipe.quant, pack=recipe.pack)
    return recipes.assign(settings, assignments)


def calibration_batches(source: Source, plan: Plan, calibration: Path | None) -> Iterator[Tensor] | None:
    """Windows of calibration text for the source's model; None where no method of the plan asks for Hessians.

    Raises HessianError when they are needed and there is no text.
    """
    if not any(method.needs_hessian for method in (plan.matrix, plan.head, plan.embed)):
        return None
    if calibration is None:
        raise HessianError(
            "this quantization needs calibration text; name training text with --calibration, or round to nearest"
        )
    sequences, rows, window = plan.calibration.sequences, plan.calibration.rows, source.about["eval"]["window"]
    window = min(window, TOGETHER) if isinstance(plan, Squeeze) else window
    vocab = source.about["model"]["vocab"]
    if calibration.suffix == ".npy":
        return token_ids.sample(calibration, vocab=vocab, count=sequences, rows=rows, seq_len=window, seed=0)
    if calibration.is_dir():
        tokens = shards.Tokens(shards.find(calibration, "train"), vocab)
    else:
        tokens = local.tokens_of(calibration, speaking.speaker(source.tokenizer), wanted=sequences * window)
    return stream.sample(tokens, count=sequences, rows=rows, seq_len=window, seed=0)


def remember(corpus: Corpus) -> None:
    """Note where a corpus lies, so that a run's own validation text is found again by its hash."""
    note = {"val": str(corpus.val[0].parent)}
    write_atomic(_note(corpus.sha256, corpus.tokenizer_sha256), json.dumps(note).encode())


def _note(corpus_sha256: str, tokenizer_sha256: str) -> Path:
    """One text may lie here in the tokens of several tokenizers."""
    return hosts.cache_folder() / "corpora" / f"{corpus_sha256}-{tokenizer_sha256[:16]}.json"


def recall(run: Path) -> Path:
    """The folder of the validation shards a run was scored on. Raises DataError when this machine has it not."""
    if not run.is_dir():
        raise DataError(f"{run.name} does not say which text to score; name it with --data")
    return text_of(read_result(run), run)


def text_of(result: RunResult, source: Path) -> Path:
    """The same for a result, however it came here; `source` is what the message names."""
    note = _note(result.corpus_sha256, result.tokenizer_sha256)
    folder = Path(json.loads(note.read_bytes())["val"]) if note.is_file() else None
    if folder is None or not folder.is_dir():
        raise DataError(f"corpus {result.corpus} of {source} is not on this machine; name the text with --data")
    return folder


def corpus_texts(corpus: Corpus) -> tuple[bytes, bytes]:
    """Validation text and the end of the training text, as the tokens spell them."""
    from golf.publish import baselines

    speaker = speaking.speaker(corpus.tokenizer)
    val = b"".join(_spelled(shards.Tokens(corpus.val, corpus.vocab), speaker, corpus.bos))
    train = shards.Tokens(corpus.train, corpus.vocab)
    # No tokenizer of ours spells more than 32 bytes with one token on average; decode no more than can matter.
    begin = max(0, len(train) - baselines.PRIOR_BYTES)
    return val, baselines.tail(_spelled(train, speaker, corpus.bos, begin))


def _spelled(tokens: Any, speaker: Any, bos: int, begin: int = 0, block: int = 1 << 20) -> Iterator[bytes]:
    """Text of each document in a token stream, in order."""
    kept = np.empty(0, np.uint16)
    for start in range(begin, len(tokens), block):
        kept = np.concatenate([kept, np.asarray(tokens[start : start + block])])
        cuts = np.flatnonzero(kept == bos)
        for left, right in itertools.pairwise(cuts.tolist()):
            yield speaker.decode(kept[left + 1 : right]).encode()
        kept = kept[cuts[-1] :] if len(cuts) else kept
    yield speaker.decode(kept[kept != bos]).encode()
