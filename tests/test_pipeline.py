"""The corridor end to end, through the commands a person types: every file of a run, and every way to break one."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from small_record import sentences, write_documents

from golf import recipe as recipes
from golf import run as corridor
from golf.contracts import BudgetError, CheckpointError, GolfError, RunResult, SpecError, quiet
from golf.data import documents, shards
from golf.data.tokenizer import Tokenizer
from golf.host import Host
from golf.pack import container
from golf.publish.use.source import open_source
from golf.train import checkpoint


@pytest.fixture(scope="module")
def record(small):
    return small


@pytest.fixture(scope="module")
def run(three):
    """One finished run of the small record."""
    return three / "1"


def result_of(run):
    return json.loads((run / "result.json").read_text())


def copy_of(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_every_file_and_every_key(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "artifact.golf", "checkpoint.safetensors", "events.jsonl", "result.json", "tokenizer.model", "train_gpt.py",
        "weights.safetensors",
    }  # fmt: skip
    result = result_of(run)
    assert set(result) == {field.name for field in fields(RunResult)}
    assert list(result)[:7] == [
        "val_loss", "val_bpb", "bytes_total", "bytes_code", "bytes_model", "seed", "track",
    ]  # fmt: skip
    assert result["bytes_model"] == (run / "artifact.golf").stat().st_size
    assert result["bytes_code"] == (run / "train_gpt.py").stat().st_size
    assert result["bytes_tokenizer"] == (run / "tokenizer.model").stat().st_size
    assert result["bytes_total"] == result["bytes_model"] + result["bytes_code"] + result["bytes_tokenizer"]


def test_the_score_is_that_of_the_artifact_on_disk(run, golf):
    printed = json.loads(golf("score", run, "--json").stdout)
    result = result_of(run)
    assert printed["val_bpb"] == result["val_bpb"]
    assert printed["tokens_scored"] == result["tokens_scored"]
    unquantized = golf("score", run / "weights.safetensors", "--data", validation(run), "--json")
    assert json.loads(unquantized.stdout)["val_bpb"] == result["val_bpb_unquantized"]
    plain = golf("score", run / "artifact.golf", "--data", validation(run), "--set", "eval.stride=32", "--json")
    assert json.loads(plain.stdout)["val_bpb"] == result["val_bpb_roundtrip"]


def validation(run):
    from golf.publish.use.convert import recall

    return recall(run)


def test_quantization_costs_little_and_training_taught_something(run):
    result = result_of(run)
    assert abs(result["val_bpb"] - result["val_bpb_unquantized"]) < 0.05
    steps = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in steps if event["event"] == "step"]
    assert losses[-1] < losses[0] - 0.1


def test_the_artifact_is_far_smaller_than_its_weights(run):
    result = result_of(run)
    about, qtensors = container.load((run / "artifact.golf").read_bytes())
    assert about["tokenizer_sha256"] == result["tokenizer_sha256"]
    assert sum(torch.Size(q.shape).numel() for q in qtensors.values()) == result["parameters"]
    assert result["bytes_model"] < 1.3 * result["parameters"]


def test_the_same_seed_gives_the_same_artifact_and_another_one_does_not(record, run, golf, tmp_path):
    golf("run", record, "--seed", 1, "--out", tmp_path)
    assert (tmp_path / "1" / "artifact.golf").read_bytes() == (run / "artifact.golf").read_bytes()
    assert result_of(tmp_path / "1")["val_bpb"] == result_of(run)["val_bpb"]
    assert (run.parent / "2" / "artifact.golf").read_bytes() != (run / "artifact.golf").read_bytes()


def test_a_resumed_run_ends_where_the_whole_one_did(record, run, golf, tmp_path):
    """Kill a run in mid-training, continue it with the command, compare the bytes."""
    program = [sys.executable, "-m", "golf", "run", str(record), "--seed", "1", "--out", str(tmp_path)]
    slow = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in slow.stderr:
        if line.startswith("step:4"):
            slow.kill()
            break
    slow.wait()
    assert not (tmp_path / "1" / "result.json").exists()
    golf("run", record, "--seed", 1, "--out", tmp_path, "--resume")
    assert (tmp_path / "1" / "artifact.golf").read_bytes() == (run / "artifact.golf").read_bytes()
    events = [json.loads(line)["event"] for line in (tmp_path / "1" / "events.jsonl").read_text().splitlines()]
    assert "resume" in events and events.count("result") == 1


@pytest.mark.slow
def test_two_ranks_score_what_one_does(run, two_ranks):
    """Under torchrun the ranks share batches, Hessians and spans; floats add up in another order, no more."""
    two, one = result_of(two_ranks), result_of(run)
    assert two["tokens_scored"] == one["tokens_scored"] and two["bytes_scored"] == one["bytes_scored"]
    assert two["val_bpb"] == pytest.approx(one["val_bpb"], abs=0.02)
    assert "2x" in two["hardware"]


@pytest.mark.slow
def test_the_pr1361_record_runs_small_on_published_shards(root, shared, tmp_path):
    """The record itself, on two ranks, with smaller numbers: FineWeb's file format and stock tokenizer."""
    speaker = shared / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    reviews = shared / "data" / "reviews" / "docs_val.jsonl.zst"
    coded = [ids for ids, _ in zip(Tokenizer(speaker).encode_documents(documents.read(reviews)), range(80))]
    shards.write(tmp_path / "fineweb_train_%06d.bin", coded[:70], shard_tokens=20_000)
    shards.write(tmp_path / "fineweb_val_%06d.bin", coded[70:])
    shutil.copy(speaker, tmp_path)
    small = (
        "train.seconds=none train.steps=4 train.seq_len=64 train.rows=4 train.batch_tokens=1024 train.warmup_steps=1 "
        "model.layers=4 model.dim=64 model.rope_dims=4 model.bigram.rows=128 model.bigram.dim=16 model.values.dim=16 "
        "quant.calibration.sequences=16 quant.learn=2 eval.window=64 eval.stride=32 pack.script=plain "
        f"data.folder={tmp_path}"
    )
    record = root / "records" / "10min_16mb" / "2026-11-21_pr1361"
    words = ["run", str(record), "--out", str(tmp_path / "out"), *(f"--set={text}" for text in small.split())]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "golf"]
    done = subprocess.run([*torchrun, *words], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "out" / "1337")
    assert result["corpus"] == "fineweb_sp1024" and result["bytes_tokenizer"] == 0
    assert result["tokens_scored"] == sum(map(len, coded[70:])) - 1
    assert result["train_tokens"] == 4 * 1024 and result["track"] == "10min_16mb"


def test_the_pr1361_record_has_the_published_size(root):
    recipe = recipes.load(root / "records" / "10min_16mb" / "2026-11-21_pr1361")
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in recipe.model.build().parameters()) == 27_067_484


# --------------------------------------------------------------------------------------------------- checking a run


def test_check_passes_a_run_and_prints_its_ledger(run, golf):
    printed = json.loads(golf("check", run, "--json").stdout)
    assert printed["ok"] and printed["ledger"]["total"] == result_of(run)["bytes_total"]
    assert "pass" in golf("check", run).output


@pytest.mark.parametrize(
    ("file", "edit", "failing"),
    [
        ("train_gpt.py", lambda data: data + b" ", "bytes as reported"),
        ("train_gpt.py", lambda data: data + b"#" * 1_000_000, "under the cap"),
        ("tokenizer.model", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "tokenizer as trained"),
        ("result.json", lambda data: data.replace(b'"val_bpb": ', b'"val_bpb": 0.9 if 1 else '), None),
        ("events.jsonl", None, "required files"),
    ],
)
def test_check_catches(run, golf, tmp_path, file, edit, failing):
    copy = copy_of(run, tmp_path)
    if edit is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(edit((copy / file).read_bytes()))
    if failing is None:
        with pytest.raises(GolfError, match="not a result of golf"):
            golf("check", copy)
        return
    outcome = golf("check", copy, "--json", code=1)
    wrong = [check["what"] for check in json.loads(outcome.stdout)["checks"] if not check["ok"]]
    assert failing in wrong


def test_check_catches_a_polished_score(run, golf, tmp_path):
    copy = copy_of(run, tmp_path)
    values = result_of(copy) | {"val_bpb": 0.9}
    (copy / "result.json").write_text(json.dumps(values))
    outcome = golf("check", copy, "--json", code=1)
    wrong = [check["what"] for check in json.loads(outcome.stdout)["checks"] if not check["ok"]]
    assert wrong == ["loss and score agree"]


def test_a_flipped_byte_of_the_artifact_is_one_sentence(run, golf, tmp_path):
    copy = copy_of(run, tmp_path)
    data = bytearray((copy / "artifact.golf").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "artifact.golf").write_bytes(data)
    for command in ("score", "check"):
        with pytest.raises(GolfError) as caught:
            golf(command, copy)
        assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------- weights, imports, budgets


def test_quantize_existing_weights_under_a_cap(run, golf, tmp_path):
    text = write_documents(tmp_path / "text.jsonl", 60)
    words = ("quantize", run / "weights.safetensors", "-o", tmp_path / "a.golf", "--calibration", text)
    less = ("--set", "quant.calibration.sequences=64", "--set", "quant.learn=2")  # seconds instead of a minute
    assert "tok_emb.weight" in golf(*words, "--effort", "fast", *less[:2]).output
    cap = int((tmp_path / "a.golf").stat().st_size * 0.8)
    capped = json.loads(golf(*words, "--cap", cap, *less, "--json").stdout)
    assert (tmp_path / "a.golf").stat().st_size == capped["bytes_model"] <= cap
    assert capped["scale_multiplier"] > 1
    assert {row["method"] for row in capped["tensors"]} <= {"waterfill", "trellis"}
    scored = golf("score", tmp_path / "a.golf", "--data", validation(run), "--json")
    assert json.loads(scored.stdout)["val_bpb"] < result_of(run)["val_bpb"] + 0.5


def test_quantize_refuses_what_it_cannot_do(run, golf, tmp_path):
    weights, out = run / "weights.safetensors", tmp_path / "a.golf"
    with pytest.raises(GolfError, match="name training text with --calibration"):
        golf("quantize", weights, "-o", out)
    text = ("--calibration", write_documents(tmp_path / "t.jsonl", 60), "--set", "quant.calibration.sequences=16")
    with pytest.raises(BudgetError, match="over the 500"):
        golf("quantize", weights, "-o", out, "--cap", 500, *text)
    with pytest.raises(SpecError, match="did you mean 'bits'"):
        golf("quantize", weights, "-o", out, "--set", "quant.matrix.bit=5")
    assert not out.exists()


def test_score_says_what_is_missing(run, golf, tmp_path):
    (tmp_path / "artifact.golf").write_bytes((run / "artifact.golf").read_bytes())
    with pytest.raises(GolfError, match="name it with --tokenizer"):
        golf("score", tmp_path / "artifact.golf", "--data", validation(run))
    named = ("--tokenizer", run / "tokenizer.model")
    with pytest.raises(GolfError, match="name it with --data"):
        golf("score", tmp_path / "artifact.golf", *named)
    (tmp_path / "a.txt").write_text(sentences(__import__("random").Random(3), 20))
    assert json.loads(golf("score", tmp_path / "artifact.golf", *named, "--data", tmp_path / "a.txt", "--json").stdout)
    with pytest.raises(GolfError, match="does not exist"):
        golf("score", tmp_path / "nowhere.golf")


def test_import_an_original_checkpoint(golf, shared, tmp_path):
    from safetensors.torch import load_file

    squeeze = shared / "oracles" / "squeeze"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads((squeeze / "reference.json").read_text())["config"]))
    speaker = shared / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    out = tmp_path / "w.safetensors"
    words = ("import", squeeze / "weights.safetensors", "--config", config, "-o", out)
    golf(*words, "--family", "pr1361", "--tokenizer", speaker)
    original, source = load_file(squeeze / "weights.safetensors"), open_source(out)
    assert source.weights.keys() == original.keys()
    assert all(torch.equal(source.weights[name], original[name]) for name in original)
    with pytest.raises(SpecError, match="unknown model family|no original checkpoints"):
        golf(*words, "--family", "pr1362", "--tokenizer", speaker)
    with pytest.raises(SpecError, match="spells 2048 tokens, the model has 1024"):
        golf(*words, "--family", "pr1361", "--tokenizer", speaker.with_name("fineweb_2048_bpe.model"))


@pytest.mark.slow
def test_an_imported_model_scores_as_published(golf, shared, tmp_path):
    squeeze = shared / "oracles" / "squeeze"
    reference = json.loads((squeeze / "reference.json").read_text())
    config = tmp_path / "config.json"
    config.write_text(json.dumps(reference["config"]))
    speaker = shared / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    out = tmp_path / "w.safetensors"
    golf(
        "import", squeeze / "weights.safetensors", "--family", "pr1361", "--config", config, "--tokenizer", speaker,
        "-o", out,
    )  # fmt: skip
    window = ("--set", "eval.window=512", "--set", "eval.stride=512")
    (part,) = shards.write(tmp_path / "golf_val_%06d.bin", [shards.read(squeeze / "val.bin")[: 256 * 512 + 1]])
    printed = json.loads(golf("score", out, "--data", part, *window, "--json").stdout)
    assert printed["val_bpb"] == pytest.approx(reference["measure"]["unquantized_val_bpb"], abs=2e-5)


def job(out, **changes):
    return corridor.Job(**({"seed": 1, "out": out, "code": b"#", "host": Host(), "sink": quiet} | changes))


def test_a_budget_that_cannot_be_met_is_refused_before_training(record, tmp_path):
    recipe = recipes.load(record)
    wide = replace(recipe, model=replace(recipe.model, dim=1024, heads=16, kv_heads=16, layers=2))
    with pytest.raises(BudgetError, match="need at least .* however coarse their grid"):
        corridor.run(wide, job(tmp_path))
    with pytest.raises(BudgetError, match="over the 1,000,000 cap"):
        corridor.run(recipe, job(tmp_path, code=b"#" * 1_000_001))
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_that_does_not_match_is_refused(record, tmp_path):
    recipe = recipes.load(record)
    with pytest.raises(SpecError, match="set model.vocab=400"):
        corridor.run(replace(recipe, model=replace(recipe.model, vocab=512)), job(tmp_path))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(record, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("golf.host.os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        corridor.run(recipes.load(record), job(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "events.jsonl"]


def test_the_program_answers_mistakes_with_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "golf", "run", str(tmp_path / "nowhere")], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("golf: no recipe at") and done.stderr.count("\n") == 1


def test_weights_carry_model_and_tokenizer(run):
    weights, about = checkpoint.load_weights(run / "weights.safetensors")
    assert about["model"]["family"] == "pr1361" and about["tokenizer"]
    assert open_source(run / "weights.safetensors").tokenizer == (run / "tokenizer.model").read_bytes()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
