"""What people get wrong: one sentence and a non-zero exit, no traceback, nothing half-written. Every command."""

import json
import shutil
import sys

import click
import pytest
import torch

from golf.__main__ import main
from golf.cli import cli
from golf.train import checkpoint

CASES = """
run {nowhere} | run {file} | run {broken} | run {record} --set pack.script=dens | run {record} --set pack.scrip=plain
run {record} --set model.heads=3 | run {record} --set track=foo | run {record} --seed -1 | run {record} --jobs 0
run {record} --set train.rows=7 | run {record} --set nonsense
import {nowhere} --family qed {o} | import {file} --family qed {o} | import {weights} --family ned {o}
import {weights} --family xgqa --config {torn} {o} | import {folder} --family qed {o}
export {nowhere} --to hf {o} | export {cut} --to hf {o} | export {run} --to hf -o {file}
quantize {nowhere} {o} | quantize {file} {o} | quantize {weights} {o} --cap 0
quantize {weights} {o} --curve {nowhere}.xyz | quantize {weights} {o} --calibration {empty}
quantize {weights} {o} --calibration {void} | quantize {weights} {o} --set quant.x=1
quantize {cut}/artifact.golf {o} --calibration {nowhere} | quantize {nan} {o} --calibration {text}
score {nowhere} | score {cut} | score {flipped} | score {mute} | score {run} --data {empty}
score {run} --data {folder} | score {run} --data {torn}
score {run} --set eval.stride=0 | score {run} --eval slide | score {run} --tokenizer {file}
generate {nowhere} | generate {flipped} | generate {run} --temperature nan | generate {run} --tokens 0
check {nowhere} | check {cut} | check {flipped} | check {unread} | check {odd} | check {torn} | check {broken}
verify {nowhere} | verify {folder} | verify {odd} --tier static
submit {nowhere} {o} | submit {run} -o {folder} | submit {run} {o} --date 2026-02-30 | submit {unread} {o}
board {nowhere} | board {torn} | board {run} --html {file}/below.html
report {nowhere} {o} | report {unread} {o} | report {cut} {o} | report {run} {run} {run} {o}
reproduce {nowhere} | reproduce {run} --seed 77 | reproduce {cut} --score-only | reproduce {odd} --score-only
sweep {nowhere} | sweep {record} --set train.ema=0.9,x | sweep {record} --set train.ema=0.8,0.9 --join {file}
bundle {nowhere} | bundle {broken} {o} | bundle {record} --set x=1 {o}
data fetch --train-shards -1 | data fetch --repo a=b {o} | data fetch --tokenizer x --repo {nowhere} {o}
data train-tokenizer {nowhere} {o} | data train-tokenizer {empty} {o} | data train-tokenizer {folder} {o}
data shard {nowhere} {as_val} {o} | data shard {empty} {as_val} {o}
data shard {text} --tokenizer {file} --split val {o} | data shard {text} {as_val} --shard-tokens 0
"""
COMMANDS = [case.strip() for line in CASES.strip().splitlines() for case in line.split("|")]


@pytest.fixture(scope="module")
def places(three, small, tmp_path_factory):
    """Files and folders with something wrong about them."""
    base = tmp_path_factory.mktemp("bad")
    run = three / "1"
    found = {"run": run, "weights": run / "weights.safetensors", "record": small, "folder": base / "holds"}
    found |= {"nowhere": base / "nowhere", "o": f"-o {base / 'new'}", "text": small.parents[2] / "documents.jsonl"}
    found |= {"as_val": f"--tokenizer {run / 'tokenizer.model'} --split val"}
    artifact = (run / "artifact.golf").read_bytes()
    flipped = bytearray(artifact)
    flipped[len(artifact) // 2] ^= 1
    odd = json.loads((run / "result.json").read_text()) | {"versions": 3, "artifact_sha256": None}
    for name, file, data in (
        ("cut", "artifact.golf", artifact[: len(artifact) // 2]), ("flipped", "artifact.golf", bytes(flipped)),
        ("unread", "events.jsonl", b"\xff\xfe\x00\n"), ("odd", "result.json", json.dumps(odd).encode()),
        ("mute", "tokenizer.model", b"no model"),
    ):  # fmt: skip
        found[name] = shutil.copytree(run, base / name)
        (found[name] / file).write_bytes(data)
    for name, file, data in (
        ("file", "file", "x"), ("empty", "empty.txt", "\n"), ("void", "void.npy", ""), ("torn", "torn.json", '{"a": '),
        ("broken", "recipe.py", "RECIPE = 1 / 0\n"), ("in folder", "holds/other.txt", "x"),
    ):  # fmt: skip
        found[name] = base / file
        found[name].parent.mkdir(exist_ok=True)
        found[name].write_text(data)
    weights, about = checkpoint.load_weights(found["weights"])
    next(W for W in weights.values() if W.ndim == 2)[0, 0] = torch.nan
    found["nan"] = base / "nan.safetensors"
    checkpoint.save_weights(found["nan"], weights, about)
    return found


@pytest.mark.parametrize("case", COMMANDS)
def test_bad_input_is_one_sentence(case, places, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["golf", *case.format(**places).split()])
    before = sorted(path for path in places["nowhere"].parent.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main()
    said = ended.value.code
    if isinstance(said, int):  # a word that the command line does not take, or a table of checks
        printed = capsys.readouterr()
        assert said == 2 and "Error: " in printed.err
    else:
        assert said.startswith("golf: ") and "\n" not in said and len(said) < 600
    assert sorted(path for path in places["nowhere"].parent.rglob("*")) == before
    assert places["file"].read_text() == "x"


def test_every_command_is_among_them():
    names = {name for name, command in cli.commands.items() if not isinstance(command, click.Group)}
    names |= {f"data {name}" for name in cli.commands["data"].commands}
    for name in names:
        assert sum(case.startswith(f"{name} ") for case in COMMANDS) >= 3, name
