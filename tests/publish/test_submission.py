"""From finished seeds to a folder another person can check: what is in it, and what `golf check` finds wrong."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_record import check_same_run

from golf.contracts import CheckpointError, DataError
from golf.publish import files
from golf.publish.board.lineage import ABSENT, changes
from golf.publish.submit import runs, seeds, several
from golf.train import checkpoint

ROOT = Path(__file__).resolve().parents[2]
ME = ("--author", "Ann", "--github-id", "ann")


@pytest.fixture(scope="module")
def handed_in(three, golf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions") / "2026-01-02_Baseline"
    golf("submit", three, "-o", folder, *ME, "--blurb", "Small & quick.")
    return folder


@pytest.fixture
def copy(handed_in, tmp_path):
    return shutil.copytree(handed_in, tmp_path / handed_in.name)


def failing(golf, folder):
    printed = json.loads(golf("check", folder, "--json", code=1).stdout)
    return [check["what"] for check in printed["checks"] if check["ok"] is False]


def edit(folder, **values):
    file = folder / "submission.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# ------------------------------------------------------------------------------------------------------ what is in it


def test_every_file_is_there(handed_in):
    names = {str(path.relative_to(handed_in)) for path in handed_in.rglob("*") if path.is_file()}
    logs = {f"train_seed{seed}.log" for seed in (1, 2, 3)} | {f"artifacts/seed{seed}.golf" for seed in (1, 2, 3)}
    assert names == logs | {
        "README.md", "submission.json", "train_gpt.py", "requirements.txt", "recipe.json", "tokenizer.model",
    }  # fmt: skip


def test_the_metadata_is_what_the_seeds_say(handed_in, three):
    values = json.loads((handed_in / "submission.json").read_text())
    results = [json.loads((three / str(seed) / "result.json").read_text()) for seed in (1, 2, 3)]
    assert values["val_bpb"] == pytest.approx(sum(result["val_bpb"] for result in results) / 3, abs=1e-12)
    assert values["val_bpb_std"] == seeds.read(three).std
    assert values["bytes_total"] == max(result["bytes_total"] for result in results)
    assert values["bytes_code"] == (handed_in / "train_gpt.py").stat().st_size
    assert (values["author"], values["github_id"], values["date"]) == ("Ann", "ann", "2026-01-02")
    assert values["seeds"] == [1, 2, 3] and set(values["seed_results"]) == {"1", "2", "3"}
    assert all(values["compliance"].values())


def test_the_readme_says_what_the_metadata_says(handed_in):
    text, values = (handed_in / "README.md").read_text(), json.loads((handed_in / "submission.json").read_text())
    assert f"{values['val_bpb']:.5f} bits per byte" in text and "Small & quick." in text
    for seed in values["seed_results"].values():
        assert f"{seed['val_bpb']:.8f}" in text and f"{seed['bytes_total']:,}" in text
    assert "python train_gpt.py --seed 1 --seed 2 --seed 3" in text and "GPTQ(bits=6" in text


@pytest.mark.parametrize(
    "line",
    [
        r"^train_shards: 1$",
        r"^val_tokens:\d+$",
        r"^step:\d+ .*val_bpb:[\d.]+",
        r"^Total submission size: \d+ bytes",
        r"^final_sliding_exact val_loss:[\d.]+ val_bpb:[\d.]+ eval_time:",
        r"^gptq:reserving",
        r"source_sha256:[0-9a-f]{64}",
        r"^versions:.*torch.*hardware:",
    ],
)
def test_logs_have_the_lines_others_look_for(handed_in, line):
    assert all(re.search(line, (handed_in / f"train_seed{seed}.log").read_text(), re.M) for seed in (1, 2, 3))


def test_logs_name_no_folder_of_the_machine(handed_in, three):
    assert str(three) not in (handed_in / "train_seed1.log").read_text().replace(str(three / "documents"), "")


def test_a_clock_that_ran_out_is_told(three):
    run = runs.read(three / "1")
    ended = [event | ({"stopped": "seconds"} if event["event"] == "train_end" else {}) for event in run.events]
    assert "stopping_early: wallclock_cap train_time:" in runs.log(runs.Run(run.path, run.result, ended))


def test_the_script_runs_alone_from_inside_the_folder(copy, three):
    """With the seed's own flags it gives what the library gave, bit for bit."""
    words = [sys.executable, "-I", "train_gpt.py", "--seed", "2"]
    done = subprocess.run(words, cwd=copy, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    check_same_run(three / "2", copy / "run/2")
    assert (copy / "run/2/artifact.golf").read_bytes() == (copy / "artifacts/seed2.golf").read_bytes()


def test_against_a_parent(three, changed, golf, tmp_path):
    printed = golf("submit", changed, "-o", tmp_path / "x", *ME, "--parent", three).stdout
    text = (tmp_path / "x" / "README.md").read_text()
    assert "| `train.matrix.lr` | 0.025 | 0.05 |" in text and "paired t(2.00)" in printed
    values = json.loads((tmp_path / "x" / "submission.json").read_text())
    assert values["parent"] and values["p_value"] < 1 and values["comparison"] in text


def test_seeds_left_out_are_named(three, golf, tmp_path):
    golf("submit", three / "1", three / "3", "-o", tmp_path / "x", *ME)
    assert "- seed 2: " in (tmp_path / "x" / "README.md").read_text()


def test_without_artifacts(three, golf, tmp_path):
    golf("submit", three, "-o", tmp_path / "x", *ME, "--no-artifacts")
    assert not (tmp_path / "x" / "artifacts").exists()
    checks = json.loads(golf("check", tmp_path / "x", "--json").stdout)["checks"]
    assert next(check["ok"] for check in checks if check["what"] == "artifacts") is None


def test_what_does_not_belong_together_is_refused(three, changed, golf, tmp_path, handed_in):
    with pytest.raises(DataError, match="2026-02-30 is no day of the calendar"):
        golf("submit", three, "-o", tmp_path / "dated", *ME, "--date", "2026-02-30")
    assert not (tmp_path / "dated").exists()
    for words, match in (
        ((three / "1", changed / "2"), "another recipe"),
        ((three / "1", changed / "1"), "seed 1 is among the runs twice"),
        ((tmp_path,), "no finished run"),
    ):
        with pytest.raises(DataError, match=match):
            golf("submit", *words, "-o", tmp_path / "x", *ME)
    with pytest.raises(DataError, match="not empty"):
        golf("submit", three, "-o", handed_in, *ME)
    lost = shutil.copytree(three / "1", tmp_path / "lost" / "1")
    (lost / "train_gpt.py").unlink()
    with pytest.raises(DataError, match=r"train_gpt\.py is missing"):
        golf("submit", lost, "-o", tmp_path / "x", *ME)


# --------------------------------------------------------------------------------------------- what a check finds wrong


def test_a_whole_submission_passes(handed_in, golf):
    printed = json.loads(golf("check", handed_in, "--json").stdout)
    assert printed["ok"] and printed["ledger"]["headroom"] > 0
    assert "pass" in golf("check", handed_in).stdout


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"val_bpb": 1.0}, "val_bpb is the mean of its seeds"),
        ({"val_bpb": None}, "required fields"),
        ({"author": ""}, "required fields"),
        ({"val_bpb_std": 0.5}, "val_bpb_std"),
        ({"bytes_total": 2_000_000}, "under the cap"),
        ({"bytes_total": 1}, "bytes_total is the worst seed's"),
        ({"bytes_code": 1}, "bytes_code"),
        ({"date": "2026-01-03"}, "date as in the folder's name"),
        ({"seeds": [1, 2]}, "seeds are listed"),
        ({"recipe_digest": "0" * 64}, "one recipe"),
        ({"source_sha256": "0" * 64}, "source_sha256"),
    ],
)
def test_altered_metadata_is_found(copy, golf, values, what):
    edit(copy, **values)
    assert what in failing(golf, copy)


def test_altered_files_are_found(copy, golf):
    script = copy / "train_gpt.py"
    script.write_bytes(script.read_bytes() + b"(\n")
    log = copy / "train_seed1.log"
    log.write_text(re.sub(r"(final_sliding_exact .*val_bpb:)[\d.]+", r"\g<1>1.00000000", log.read_text()))
    (copy / "train_seed2.log").unlink()
    (copy / "artifacts" / "seed3.golf").write_bytes(b"GOLF")
    (copy / "tokenizer.model").unlink()
    (copy / "README.md").unlink()
    assert set(failing(golf, copy)) >= {
        "required files", "script is Python", "bytes_code", "source_sha256", "log of seed 1", "log of seed 2",
        "artifact of seed 3", "tokenizer as trained",
    }  # fmt: skip


def test_published_metadata_is_checked_without_its_files(golf, shared):
    """Every one of them gets its verdicts; required fields that are there pass, others fail."""
    for file in sorted((shared / "oracles" / "published").glob("*.json")):
        raw = json.loads(file.read_bytes())
        stated = [raw.get(name) for name in ("author", "github_id", "name", "date")]
        whole = all(stated) and isinstance(raw.get("val_bpb"), float) and raw["val_bpb"] > 0  # 0.0 is a placeholder
        from golf.publish.submit.check import check

        verdict = next(v for v in check(file)[1] if v.what == "required fields")
        assert verdict.ok or not whole, (file, verdict)


# ----------------------------------------------------------------------------------------------------- several seeds


def test_the_seeds_are_put_together(three):
    values = json.loads((three / "results.json").read_text())
    assert values["seeds"] == [1, 2, 3] and values["failed"] == {} and len(values["results"]) == 3
    assert values["recipe"]["track"] == "cpu_5min_1mb"


def test_a_failed_seed_does_not_lose_the_others(small, golf, tmp_path):
    (tmp_path / "2" / "artifact.golf").mkdir(parents=True)  # a run cannot clear that away
    words = ("run", small, "--out", tmp_path, "--seed", 1, "--seed", 2, "--seed", 3)
    printed = golf(*words, code=1).output
    values = json.loads((tmp_path / "results.json").read_text())
    assert values["seeds"] == [1, 3] and list(values["failed"]) == ["2"]
    assert "failed" in printed


def test_seeds_side_by_side(three, small, golf, tmp_path):
    """The same artifacts as in turn; the one that fails says why and takes nobody along."""
    (tmp_path / "2" / "artifact.golf").mkdir(parents=True)
    golf("run", small, "--out", tmp_path, "--seed", 3, "--seed", 2, "--seed", 1, "--jobs", 3, code=1)
    values = json.loads((tmp_path / "results.json").read_text())
    assert values["seeds"] == [1, 3] and "artifact.golf" in values["failed"]["2"]
    for seed in (1, 3):
        ours, theirs = tmp_path / str(seed) / "artifact.golf", three / str(seed) / "artifact.golf"
        assert ours.read_bytes() == theirs.read_bytes()
    assert (tmp_path / "2" / several.LOG).read_text()


def test_scores_of_different_text_are_not_compared(three):
    one = seeds.read(three)
    values = one.values()
    for result in values["results"]:
        result["corpus_sha256"] = "0" * 64
    other = seeds.Seeds("other", [files.read_result(three / "1").__class__(**r) for r in values["results"]])
    with pytest.raises(DataError, match="different text"):
        seeds.compare(one, other)


WRITER = """
import json, sys
from pathlib import Path
from golf.host import write_atomic
for count in range(10**9):
    write_atomic(Path(sys.argv[1]), json.dumps({"count": count, "results": [count] * 5000}).encode())
"""


def test_readers_never_see_a_broken_results_file(tmp_path):
    """A hundred of them, while writers are killed in mid-write again and again."""
    file, stop, seen = tmp_path / "results.json", threading.Event(), set()
    file.write_text('{"count": -1, "results": []}')

    def read():
        while not stop.is_set():
            values = json.loads(file.read_bytes())
            assert set(values["results"]) <= {values["count"]}
            seen.add(values["count"])
            time.sleep(0.1)  # a hundred of them must leave the writer room

    with ThreadPoolExecutor(100) as pool:
        readers = [pool.submit(read) for _ in range(100)]
        for _ in range(2):
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)])
            before = max(seen, default=-1)
            while len(seen) < 3 or max(seen) == before:
                time.sleep(0.05)
            time.sleep(0.2)
            writer.kill()
            writer.wait()
        stop.set()
        for reader in readers:
            reader.result()


LOGGER = """
import sys, time
from pathlib import Path
import torch
from golf.contracts import emit
from golf.events import JsonLines
from golf.train import checkpoint
log = JsonLines(Path(sys.argv[1]), append=True)
for count in range(10**9):
    emit(log, "step", step=count, text=str(count) * 400)
    checkpoint.save(Path(sys.argv[2]), {"w": torch.full((20, 500), float(count))}, {"step": count})
"""


def test_a_run_is_read_while_it_goes_on_and_is_killed(tmp_path):
    """Its log ends in a whole line; its checkpoint is one step's and no other's, or refused, whenever one looks."""
    log, saved, stop, seen = tmp_path / "events.jsonl", tmp_path / "checkpoint", threading.Event(), set()

    def read():
        while not stop.is_set():
            if log.exists():
                for event in runs.events(log)[-3:]:
                    assert event["text"] == str(event["step"]) * 400
            if saved.exists():
                try:
                    tensors, about = checkpoint.load(saved)
                except CheckpointError as error:  # the library opens a file twice, and another came between
                    assert "checksum" in str(error)
                    continue
                assert (tensors["w"] == about["step"]).all()
                seen.add(about["step"])
            time.sleep(0.02)

    with ThreadPoolExecutor(20) as pool:
        readers = [pool.submit(read) for _ in range(20)]
        for _ in range(2):
            seen.clear()
            writer = subprocess.Popen([sys.executable, "-c", LOGGER, str(log), str(saved)])
            while len(seen) < 5 and not any(reader.done() for reader in readers):
                time.sleep(0.05)
            writer.kill()
            writer.wait()
        stop.set()
        for reader in readers:
            reader.result()


def test_results_of_an_older_golf(three, tmp_path):
    """What it could not know has one true value; what is really lacking is named."""
    values = json.loads((three / "1" / "result.json").read_text())
    old = {name: value for name, value in values.items() if name != "supervised_tokens"}
    assert files.result_of(old, tmp_path / "r.json").supervised_tokens == values["train_tokens"]
    assert files.result_of(values | {"of_a_newer_golf": 1}, tmp_path / "r.json") == files.read_result(three / "1")
    with pytest.raises(DataError, match="r.json is not a result of golf: it lacks val_bpb, seed$"):
        files.result_of({k: v for k, v in old.items() if k not in ("seed", "val_bpb")}, tmp_path / "r.json")
    with pytest.raises(DataError, match="it holds list, not an object"):
        files.result_of([], tmp_path / "r.json")


def test_changes_of_a_recipe():
    old = {"model": {"type": "A", "dim": 8, "gone": 1}, "stages": [{"type": "S", "begin": 0.5}]}
    new = {"model": {"type": "B", "dim": 8, "new": [1, 2]}, "stages": []}
    assert changes(old, new) == [
        ("model", "A", "B"), ("model.new", ABSENT, "1,2"), ("stages", ABSENT, ""), ("model.gone", "1", ABSENT),
        ("stages.0", "S", ABSENT), ("stages.0.begin", "0.5", ABSENT),
    ]  # fmt: skip


@pytest.mark.parametrize("results", sorted(ROOT.glob("records/*/*/results.json")), ids=lambda file: file.parent.name)
def test_results_in_the_repository_are_their_recipes(results, golf):
    checks = json.loads(golf("check", results.parent, "--json").stdout)["checks"]
    assert checks and all(check["ok"] is not False for check in checks)
