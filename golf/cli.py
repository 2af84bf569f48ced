"""The commands. Each is a thin shell around a function elsewhere and imports what it needs when it is called,
so that `golf --help` answers at once."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from golf.contracts import SpecError
from golf.publish.options import FILE, FOLDER, SEED, bos_option, console, eos_option, json_option, set_option
from golf.publish.submit import commands as finished
from golf.publish.use import commands
from golf.publish.use.efforts import EFFORTS
from golf.publish.verify import command as verify_command

TRACKER = click.Choice(["tensorboard", "wandb", "trackio"])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="golf")
def cli() -> None:
    """Train, compress and prove small language models under a hard byte budget."""


cli.add_command(commands.generate)
cli.add_command(verify_command.verify)
for _command in (finished.check, finished.submit, finished.board, finished.report, finished.sweep, finished.reproduce):
    cli.add_command(_command)


@cli.command()
@click.argument("record", type=FOLDER)
@click.option("--seed", "seeds", type=SEED, multiple=True, help="Random seed; may be repeated.  [default: 1337]")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Seeds trained side by side.")
@click.option("--out", type=FOLDER, help="Files land in OUT/<seed>/.  [default: runs/<record>]")
@set_option
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in OUT/<seed>/, if there is one.")
@click.option("--tracker", "trackers", type=TRACKER, multiple=True, help="Log there too, on this machine.")
@click.option("--clock", type=FILE, hidden=True, help="Seconds to go by, as noted by an earlier run of the seed.")
@json_option
def run(
    record: Path,
    seeds: Sequence[int],
    jobs: int,
    out: Path | None,
    assignments: Sequence[str],
    resume: bool,
    trackers: Sequence[str],
    clock: Path | None,
    as_json: bool,
) -> None:
    """Train, compress and score RECORD.

    RECORD is a record folder or a recipe file.

    A seed that fails does not stop the others; OUT/results.json puts those together that have finished.
    """
    from golf.publish.submit import several

    seeds = list(dict.fromkeys(seeds or (1337,)))
    name = record.name if record.is_dir() else record.stem
    plan = several.Plan(record, seeds, out or Path("runs") / name, assignments, resume, trackers, clock)
    failed = several.side_by_side(plan, jobs) if jobs > 1 and len(seeds) > 1 else several.in_turn(plan, as_json)
    results, table = several.summarize(plan, name, failed)
    if as_json and results:
        values = [asdict(result) for result in results]
        click.echo(json.dumps(values[0] if len(values) == 1 else values, indent=1))
    elif table is not None:
        console().print(table)
    if failed:
        sys.exit(1)


@cli.command("import")
@click.argument("checkpoint", type=FOLDER)
@click.option("--family", required=True, help="Model family, such as pr1361.")
@click.option("--config", type=FILE, help="JSON object with the original configuration.  [default: the checkpoint's]")
@click.option("--tokenizer", type=FILE, help="What the checkpoint speaks: a SentencePiece model or a tokenizer.json.")
@bos_option
@eos_option
@click.option("--rename", type=FILE, help="JSON object of names in the checkpoint -> names in golf.")
@click.option("-o", "--output", type=FILE, required=True, help="Weights file to write.")
def import_(
    checkpoint: Path,
    family: str,
    config: Path | None,
    tokenizer: Path | None,
    bos: str,
    eos: str,
    rename: Path | None,
    output: Path,
) -> None:
    """Turn an original CHECKPOINT into golf's weights file.

    CHECKPOINT is a .safetensors, .pt, .pth or .bin file, or a folder of transformers; nothing in it is executed.
    """
    from golf.publish.use import original

    parameters = original.import_weights(checkpoint, family, config, tokenizer, rename, output, bos=bos, eos=eos)
    click.echo(f"{output}: {family}, {parameters:,} parameters")


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--to", "form", type=click.Choice(["original", "hf"]), required=True, help="Whose form.")
@click.option("-o", "--output", "folder", type=FOLDER, required=True, help="Folder for the files.")
@click.option("--tokenizer", type=FILE, help="The tokenizer, when it does not lie beside RUN.")
def export(run: Path, form: str, folder: Path, tokenizer: Path | None) -> None:
    """Write a model in the form that other code reads.

    RUN is a run folder, an artifact or weights.
    """
    from golf.publish.use import source

    module = importlib.import_module({"original": "golf.publish.use.original", "hf": "golf.publish.hf.folder"}[form])
    for file in module.export(source.open_source(run, tokenizer), folder):
        click.echo(f"{file}: {file.stat().st_size:,} bytes")


@cli.command()
@click.argument("weights", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Artifact to write.")
@click.option("--recipe", "record", type=FOLDER, help="Record whose quantization and packing to use.")
@click.option("--cap", type=click.IntRange(1), help="Largest artifact in bytes.")
@click.option("--calibration", type=FOLDER, help="Training text: .bin shards, .jsonl[.zst] or .txt; or its ids, .npy.")
@click.option("--effort", type=click.Choice(list(EFFORTS)), help="How long to look for codes.  [default: default]")
@click.option("--curve", type=FILE, help="Draw bytes against tax as well (.svg or .png).")
@click.option("--reference", type=FILE, help="JSON whose reference.points to draw beside the curve.")
@click.option(
    "--layerwise/--at-once", default=None, help="Hold one block in memory, resumable.  [default: if WEIGHTS are large]"
)
@set_option
@json_option
def quantize(
    weights: Path,
    output: Path,
    record: Path | None,
    cap: int | None,
    calibration: Path | None,
    effort: str | None,
    curve: Path | None,
    reference: Path | None,
    layerwise: bool | None,
    assignments: Sequence[str],
    as_json: bool,
) -> None:
    """Quantize and pack WEIGHTS into an artifact.

    WEIGHTS is a .safetensors file of `golf run` or `golf import`.
    """
    from golf.publish import terminal
    from golf.publish.use import convert, large

    if effort and record:
        raise SpecError("--effort is of golf's own way to quantize, --recipe names another; leave one of them out")
    with terminal.ProgressBar() as bar:
        if layerwise or (layerwise is None and large.is_large(weights)):
            report = large.quantize_large(weights, output, record, cap, calibration, assignments, bar)
        else:
            report = convert.quantize_weights(
                weights, output, record, cap, calibration, assignments, bar,
                effort=effort or "default", curve=curve, reference=reference,
            )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    console().print(terminal.quantize_table(report))


@cli.command()
@click.argument("source", type=FOLDER)
@click.option("--data", type=FOLDER, help="Text to score: .bin, .jsonl[.zst], .txt or .tokens.  [default: a run's own]")
@click.option("--tokenizer", type=FILE, help="The tokenizer, when it does not lie beside SOURCE.")
@click.option("--task", "tasks", multiple=True, help="Answer a zero-shot task instead: .yaml, .jsonl or a name.")
@click.option("--limit", type=click.IntRange(1), help="Questions of each task.  [default: all]")
@click.option("--eval", "kind", metavar="KIND", help="Not SOURCE's own but sliding, rolling, chunk-sgd, document-lora.")
@set_option
@json_option
def score(
    source: Path,
    data: Path | None,
    tokenizer: Path | None,
    tasks: Sequence[str],
    limit: int | None,
    kind: str | None,
    assignments: Sequence[str],
    as_json: bool,
) -> None:
    """Bits per byte of SOURCE: a run folder, an artifact or weights."""
    from golf.publish import terminal
    from golf.publish.use import perplexity, scoring

    if limit and not tasks:
        raise SpecError("--limit counts the questions of a task; name one with --task, or leave it out")
    if tasks:
        _score_tasks(source, tokenizer, tasks, limit, as_json)
        return
    with terminal.ProgressBar() as bar:
        begin = time.monotonic()
        scored = scoring.score_source(source, data, tokenizer, kind, assignments, bar)
        seconds = time.monotonic() - begin
    if scored is None:  # another rank reports
        return
    text = perplexity.of_text(data, scored.score)
    if as_json:
        total, fixed = scored.score, scored.fixed or scored.score
        values = {"val_loss": total.loss, "val_bpb": total.bpb, "eval_kind": scored.kind, "val_bpb_fixed": fixed.bpb}
        values |= {"tokens_scored": total.tokens, "bytes_scored": total.bytes, "eval_seconds": seconds}
        click.echo(json.dumps(values | (asdict(text) if text else {}), indent=1))
        return
    console().print(terminal.score_table(str(source), scored, seconds, text))


def _score_tasks(source: Path, tokenizer: Path | None, tasks: Sequence[str], limit: int | None, as_json: bool) -> None:
    from golf.publish import terminal
    from golf.publish.use import zeroshot

    with terminal.ProgressBar() as bar:
        found = zeroshot.score_tasks(source, tokenizer, tasks, limit, bar)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    console().print(terminal.task_table(str(source), found))


@cli.command()
@click.argument("record", type=FOLDER)
@click.option("-o", "--output", type=FILE, default=Path("train_gpt.py"), show_default=True)
@set_option
@json_option
def bundle(record: Path, output: Path, assignments: Sequence[str], as_json: bool) -> None:
    """Write RECORD and the code it needs as one file.

    Prints its bytes and the headroom.
    """
    from golf import recipe as recipes
    from golf import track as tracks
    from golf.host import write_atomic
    from golf.publish.bundle import one_file as bundler

    recipe = recipes.assign(recipes.load(record), assignments)
    made = bundler.bundle(record / "recipe.py" if record.is_dir() else record, overrides=assignments)
    write_atomic(output, made.code)
    cap = tracks.find(recipe.track).cap_bytes
    values = {"file": str(output), "bytes_code": len(made.code), "headroom": cap - len(made.code)}
    if as_json:
        click.echo(json.dumps(values | {"packages": made.packages, "modules": made.sizes}, indent=1))
        return
    click.echo(f"{output}: {len(made.code):,} bytes, {cap - len(made.code):,} of {cap:,} left for weights")


@cli.group()
def data() -> None:
    """Fetch, tokenize and shard text."""


@data.command()
@click.option("--tokenizer", default="sp1024", show_default=True, help="Export to fetch, such as sp1024 or sp8192.")
@click.option("--train-shards", type=click.IntRange(0), default=80, show_default=True, help="How many training shards.")
@click.option("--repo", help="Hub repository that holds the export.")
@click.option("-o", "--output", "folder", type=FOLDER, help="Folder for the files.  [default: golf's cache]")
def fetch(tokenizer: str, train_shards: int, repo: str | None, folder: Path | None) -> None:
    """Download a published FineWeb export.

    Resumable; every file is checked by its hash.
    """
    from golf import host as hosts
    from golf.data import fetch as fetching
    from golf.publish.terminal import ProgressBar

    folder = folder or hosts.cache_folder() / "fineweb" / tokenizer
    with ProgressBar() as bar:
        fetching.fetch(repo or fetching.REPOSITORY, folder, tokenizer=tokenizer, train_shards=train_shards, sink=bar)
    click.echo(f"{folder}: {train_shards} training shards of {tokenizer}")


@data.command("train-tokenizer")
@click.argument("documents", type=FOLDER, nargs=-1, required=True)
@click.option("--vocab", type=click.IntRange(1), default=1024, show_default=True, help="Tokens it knows.")
@click.option("-o", "--output", type=FILE, required=True)
def train_tokenizer(documents: Sequence[Path], vocab: int, output: Path) -> None:
    """Train a lossless SentencePiece tokenizer on DOCUMENTS.

    DOCUMENTS are .jsonl[.zst] or .txt files.
    """
    from golf.data import documents as texts
    from golf.data import tokenizer
    from golf.host import write_atomic

    write_atomic(output, tokenizer.train(texts.read_all(documents), vocab))
    click.echo(f"{output}: {vocab:,} tokens, {output.stat().st_size:,} bytes")


@data.command()
@click.argument("documents", type=FOLDER, nargs=-1, required=True)
@click.option("--tokenizer", type=FILE, required=True, help="A SentencePiece model or a tokenizer.json.")
@bos_option
@click.option("--split", type=click.Choice(["train", "val"]), required=True, help="What the shards are for.")
@click.option("--shard-tokens", type=click.IntRange(1), default=100_000_000, show_default=True, help="Of a shard.")
@click.option("-o", "--output", "folder", type=FOLDER, required=True)
def shard(
    documents: Sequence[Path], tokenizer: Path, bos: str, split: str, shard_tokens: int, folder: Path
) -> None:
    """Tokenize DOCUMENTS into shards.

    They have the challenge's format, or 32 bits a token where ids go beyond 65,535.
    """
    from golf.data import documents as texts
    from golf.data import shards, speaking, tokenizer_json

    speaker = speaking.speaker(tokenizer_json.read(tokenizer, bos=bos))
    arrays = speaker.encode_documents(texts.read_all(documents))
    written = shards.write(folder / f"golf_{split}_%06d.bin", arrays, shard_tokens=shard_tokens)
    click.echo(f"{folder}: {len(written)} {split} shards")
