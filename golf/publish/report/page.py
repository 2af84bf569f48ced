"""`golf report`: what a run did, where its bytes went and what its model finds hard, as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from golf.contracts import DataError
from golf.host import write_atomic
from golf.publish.board import lineage
from golf.publish.render import render
from golf.publish.report import tax, unfinished
from golf.publish.report.examine import Findings, examine
from golf.publish.report.figures import Plots
from golf.publish.submit import runs
from golf.publish.terminal import ProgressBar


def write(paths: Sequence[Path], output: Path, tokens: int, seconds: float) -> list[dict[str, Any]]:
    """Examine one run or two, write their page and return what was measured as plain values; of a run that has not
    finished, what its log holds. Raises DataError for more, or a folder that is no run."""
    if len(paths) > 2:
        raise DataError(f"a report shows one run or compares two, got {len(paths)}")
    if len(paths) == 1 and unfinished.is_unfinished(paths[0]):
        run = unfinished.read(paths[0], *_labels(paths))
        write_atomic(output, unfinished.page(run).encode())
        return [unfinished.values(run)]
    folders = [find_run(path) for path in paths]
    output.parent.mkdir(parents=True, exist_ok=True)  # rather than find out after minutes
    with ProgressBar() as bar:
        findings = [examine(folder, tokens, seconds, bar) for folder in folders]
    for found, label in zip(findings, _labels(folders)):
        found.label = label
    write_atomic(output, page(findings).encode())
    return [values(found) for found in findings]


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
        cost_plot=plots.costs(),
        resolved=tax.RESOLVED,
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
        "quantization costs": f"{found.paid:+.5f}",
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
        "weights": result.weights_sha256 or "not noted",
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
        "rounding": asdict(found.tax) if found.tax else None,
        "gaps": found.gaps,
    }
