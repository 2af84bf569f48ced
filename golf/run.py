"""The corridor, read top to bottom: fit -> average -> calibrate -> quantize -> pack -> unpack -> score."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf import host as hosts
from golf import track as tracks
from golf.arch import families
from golf.contracts import ByteLedger, ByteTable, Corpus, Model, RunResult, Score, Sink, SpecError, emit, quiet
from golf.data import shards, stream
from golf.host import Host, write_atomic
from golf.pack import container
from golf.quant import apply, reach
from golf.recipe import Recipe, to_json
from golf.train import checkpoint, engine

WEIGHTS, ARTIFACT, TOKENIZER, RESULT = "weights.safetensors", "artifact.golf", "tokenizer.model", "result.json"
CODE, EVENTS, CHECKPOINT = "train_gpt.py", "events.jsonl", "checkpoint.safetensors"
# The reserve is measured before the clock starts, on an idle machine; training leaves it a warmer, busier one.
RESERVE_MARGIN = 1.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is given besides its recipe: the seed, a folder, the bytes of the code that runs."""

    seed: int
    out: Path
    code: bytes
    host: Host
    sink: Sink
    resume: bool = False


def run(recipe: Recipe, job: Job) -> RunResult:
    """Train, compress and score under the recipe's track; the files of the run land in `job.out`.

    Raises BudgetError when no setting fits the cap, and whatever the rooms raise; nothing half-written stays.
    """
    host, sink, track, how = job.host, job.sink, tracks.find(recipe.track), recipe.eval
    if host.is_main and not job.resume:
        for name in (WEIGHTS, ARTIFACT, TOKENIZER, RESULT, CODE, CHECKPOINT):
            (job.out / name).unlink(missing_ok=True)
    corpus = open_corpus(recipe, host, sink)
    spelled = corpus.tokenizer.read_bytes()
    counted, shown = (len(spelled), 0) if corpus.tokenizer_counted else (0, len(spelled))
    ledger = ByteLedger(code=len(job.code), blob=0, cap=track.cap_bytes, tokenizer=counted, tokenizer_shown=shown)
    ledger.check()

    torch.manual_seed(job.seed)
    model = recipe.model.build().to(host.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"seed": job.seed, "track": track.name, "recipe_digest": recipe.digest, "parameters": parameters}
    emit(sink, "versions", versions=hosts.versions(), hardware=host.hardware)
    emit(sink, "model", **facts, code_sha256=hashlib.sha256(job.code).hexdigest(), recipe=to_json(recipe))
    reach.check(dict(model.named_parameters()), model.roles(), recipe.quant, ledger.headroom)
    if recipe.init is not None:
        recipe.init.load(model, describe(recipe, corpus))

    reserve = measure_reserve(model, corpus, recipe, job) if recipe.train.seconds is not None else 0.0
    emit(sink, "reserve", seconds=reserve)
    feed = stream.TokenStream(
        corpus.draw or corpus.train, seq_len=recipe.train.longest, seed=job.seed, rank=host.rank, world=host.world,
        rows=recipe.train.rows * recipe.train.seq_len // recipe.train.longest, vocab=corpus.vocab,
    )  # fmt: skip
    late = recipe.quant.rehearse(model, lambda: calibration(corpus, recipe, job), ledger.headroom, recipe.train, host)
    with closing(feed):
        trained = engine.fit(
            model, feed, recipe.train, host=host, sink=sink, seed=job.seed, reserve_seconds=reserve,
            switches=late, checkpoint=job.out / CHECKPOINT, resume=job.resume, digest=recipe.digest,
        )  # fmt: skip

    model.load_state_dict(trained.average)
    begin = time.monotonic()
    hessians = recipe.quant.collect(model, calibration(corpus, recipe, job), host=host)
    train_seconds = host.largest(trained.seconds + time.monotonic() - begin)

    begin, multiplier, about = time.monotonic(), 1.0, describe(recipe, corpus)
    if host.is_main:

        def size_of(qtensors: dict) -> int:
            return len(container.dump(qtensors, about, recipe.pack))

        weights, grams, cap = trained.average, hessians.by_name, ledger.headroom
        fitted = recipe.quant.fit(weights, model.roles(), grams, size_of=size_of, cap=cap, sink=sink)
        multiplier = fitted.multiplier
        write_atomic(job.out / CODE, job.code)
        write_atomic(job.out / TOKENIZER, spelled)
        write_atomic(job.out / ARTIFACT, container.dump(fitted.qtensors, about, recipe.pack))
        checkpoint.save_weights(job.out / WEIGHTS, weights, with_tokenizer(about, spelled))
    host.barrier()
    quantize_seconds = time.monotonic() - begin

    begin, data = time.monotonic(), (job.out / ARTIFACT).read_bytes()
    table, tokens = corpus.speaker(corpus.tokenizer).table(), shards.Tokens(corpus.val, corpus.vocab)
    fresh = read_model(data).to(host.device)
    final = score(how.kind, fresh, tokens, table, how, host, sink)
    eval_seconds = host.largest(time.monotonic() - begin)
    # Diagnostics come after everything that counts: a crash here still leaves a valid artifact and its score.
    fixed = final if how.fixed is how else score("fixed", fresh, tokens, table, how.fixed, host, sink)
    roundtrip = score("roundtrip", fresh, tokens, table, how.plain, host, sink)
    unquantized = score("unquantized", model, tokens, table, how.fixed, host, sink)

    ledger = replace(ledger, blob=len(data))
    result = RunResult(
        **facts, val_loss=final.loss, val_bpb=final.bpb, bytes_total=ledger.total, bytes_code=ledger.code,
        bytes_model=ledger.blob, val_bpb_unquantized=unquantized.bpb, val_bpb_roundtrip=roundtrip.bpb,
        steps=trained.steps, train_seconds=train_seconds, quantize_seconds=quantize_seconds, eval_seconds=eval_seconds,
        corpus_sha256=corpus.sha256, tokens_scored=final.tokens, bytes_scored=final.bytes, versions=hosts.versions(),
        bytes_cap=ledger.cap, bytes_tokenizer=ledger.tokenizer, tokenizer_sha256=corpus.tokenizer_sha256,
        tokenizer_counted=corpus.tokenizer_counted, corpus=corpus.name, train_tokens=trained.tokens,
        supervised_tokens=trained.supervised, stopped=trained.stopped, scale_multiplier=multiplier,
        artifact_sha256=hashlib.sha256(data).hexdigest(), hardware=host.hardware, eval_kind=how.kind,
        val_bpb_fixed=fixed.bpb, weights_sha256=hashlib.sha256((job.out / WEIGHTS).read_bytes()).hexdigest(),
    )  # fmt: skip
    emit(sink, "ledger", total=ledger.total, headroom=ledger.headroom, **asdict(ledger))
    emit(sink, "result", **asdict(result))
    if host.is_main:
        write_atomic(job.out / RESULT, (json.dumps(asdict(result), indent=1) + "\n").encode())
    ledger.check()
    return result


def open_corpus(recipe: Recipe, host: Host, sink: Sink) -> Corpus:
    """Rank 0 prepares the corpus, the others then find it ready. Raises SpecError when vocabularies differ."""
    if host.is_main:
        recipe.data.open(hosts.cache_folder(), sink)
    host.barrier()
    corpus = recipe.data.open(hosts.cache_folder(), quiet)
    emit(
        sink, "corpus", name=corpus.name, sha256=corpus.sha256, vocab=corpus.vocab,
        tokenizer_sha256=corpus.tokenizer_sha256, train_shards=len(corpus.train), val_shards=len(corpus.val),
    )  # fmt: skip
    if corpus.vocab != recipe.model.vocab:
        raise SpecError(
            f"the model has vocab={recipe.model.vocab} but the tokenizer of corpus {corpus.name} spells {corpus.vocab} "
            f"tokens; set model.vocab={corpus.vocab}"
        )
    return corpus


def calibration(corpus: Corpus, recipe: Recipe, job: Job) -> Iterator[Tensor]:
    """This rank's share of a fixed sample of training windows."""
    plan = recipe.quant.calibration
    return stream.sample(
        corpus.draw or corpus.train, count=plan.sequences, rows=plan.rows, seq_len=recipe.train.seq_len, seed=job.seed,
        rank=job.host.rank, world=job.host.world, vocab=corpus.vocab,
    )  # fmt: skip


def measure_reserve(model: Model, corpus: Corpus, recipe: Recipe, job: Job) -> float:
    """Seconds the Hessians will take after the loop: one batch timed after one to warm up, times their number."""
    first = next(calibration(corpus, recipe, job))
    for _ in range(2):
        begin = time.monotonic()
        recipe.quant.collect(model, [first], host=job.host)
        seconds = time.monotonic() - begin
    return job.host.largest(seconds * recipe.quant.calibration.batches(job.host.world) * RESERVE_MARGIN)


def describe(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """What travels with weights and artifact: the model's shape, how it is scored, whose tokens it speaks."""
    return {
        "model": families.spec_to_json(recipe.model),
        "eval": {"kind": recipe.eval.kind, **asdict(recipe.eval)},
        "tokenizer_sha256": corpus.tokenizer_sha256,
    }


def with_tokenizer(about: dict[str, Any], spelled: bytes) -> dict[str, Any]:
    """The same for a weights file, which holds the tokenizer itself."""
    return about | {"tokenizer": base64.b64encode(spelled).decode()}


def read_model(data: bytes) -> Model:
    """A fresh model with the weights of an artifact's bytes."""
    about, qtensors = container.load(data)
    model = families.build(about["model"])
    model.load_state_dict(apply.dequantize(qtensors))
    return model.eval()


def score(what: str, model: Model, tokens: Any, table: ByteTable, spec: Any, host: Host, sink: Sink) -> Score:
    """One pass over the validation tokens, reported under the name of what was scored."""
    begin, total = time.monotonic(), spec.score(model, tokens, table, host=host, sink=sink)
    facts = {"loss": total.loss, "bpb": total.bpb, "tokens": total.tokens, "bytes": total.bytes}
    emit(sink, "final", what=what, **facts, seconds=time.monotonic() - begin)
    return total
