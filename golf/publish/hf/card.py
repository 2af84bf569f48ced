"""The model card of an exported folder, filled in from the run it comes from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from golf import run as corridor
from golf.contracts import ModelSpec, RunResult
from golf.data.speaking import is_json, speaker
from golf.publish.files import read_result
from golf.publish.use.source import Source

USE = '''```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{folder}", trust_remote_code=True)
inputs = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0], skip_special_tokens=True))
```'''


def text(source: Source, spec: ModelSpec, kind: str) -> str:
    """README.md. Only what is known is said: a weights file without a run has no scores."""
    count = sum(tensor.numel() for tensor in source.weights.values())
    quantized = source.path.suffix != ".safetensors"
    rows = [("family", f"`{spec.family}`"), ("parameters", f"{count:,}")]
    rows.append(("weights", "read back from a quantized artifact" if quantized else "not quantized"))
    result = read_result(source.path.parent) if (source.path.parent / corridor.RESULT).is_file() else None
    if result is not None:
        rows += facts(result, quantized)
    if source.spelled:
        kind = "tokenizer.json" if is_json(source.spelled) else "SentencePiece"
        rows.append(("tokenizer", f"{kind}, SHA-256 `{hashlib.sha256(source.spelled).hexdigest()[:16]}`"))
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    shape = json.dumps(source.about["model"], indent=1)
    opening = speaker(source.spelled).opening() if is_json(source.spelled) else ""
    use = USE.format(folder="path/to/this/folder", prompt=f"{opening}Once upon a time") if source.spelled else ""
    parts = [
        _front(kind, result),
        f"# {_title(source, spec, result)}",
        table,
        "## Use" if use else "",
        use,
        "The code in this folder comes from golf and needs only transformers and torch.",
        "## Shape",
        f"```json\n{shape}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def facts(result: RunResult, quantized: bool) -> list[tuple[str, str]]:
    """Rows of the table that a run's result gives."""
    bpb = result.val_bpb if quantized else result.val_bpb_unquantized
    scored = f"{result.tokens_scored:,} tokens, {result.bytes_scored:,} bytes of {result.corpus}"
    rows = [("bits per byte", f"{bpb:.4f} ({result.eval_kind}; {scored})")]
    if quantized:
        rows.append(("bits per byte before quantization", f"{result.val_bpb_unquantized:.4f}"))
        rows.append(("bytes", f"{result.bytes_model:,} of weights, {result.bytes_total:,} in all"))
    return [
        *rows,
        ("trained", f"{result.steps:,} steps, {result.train_tokens:,} tokens, {result.train_seconds:.0f} s"),
        ("hardware", result.hardware),
        ("track, seed", f"{result.track}, {result.seed}"),
        ("recipe", f"`{result.recipe_digest[:16]}`"),
        ("corpus", f"{result.corpus}, SHA-256 `{result.corpus_sha256[:16]}`"),
    ]


def _title(source: Source, spec: ModelSpec, result: RunResult | None) -> str:
    """A run lies in a folder of its record; any other file has only its own name."""
    return source.path.stem if result is None else f"{source.path.resolve().parents[1].name} ({spec.family})"


def _front(kind: str, result: RunResult | None) -> str:
    """The block of metadata that the Hub reads."""
    lines: list[Any] = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {tag}" for tag in ("golf", kind, *([result.track] if result else []))]
    return "\n".join([*lines, "---"])
