"""Reproducing: bit for bit where nothing differs, and a plain word about the first thing that does."""

import json
import shutil
from dataclasses import replace

import pytest

from golf.contracts import Corpus, DataError
from golf.data.tokenizer import Tokenizer
from golf.publish.submit import reproduce, runs, seeds
from golf.publish.use import convert


@pytest.fixture(scope="module")
def submission(three, golf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce") / "submission"
    golf("submit", three, "-o", folder, "--author", "A")
    return folder


def checks(outcome):
    return {check["what"]: check for check in json.loads(outcome.stdout)["checks"]}


def test_stored_artifacts_score_the_same(three, submission, golf):
    for words in ((submission,), (submission, "--seed", 3), (three / "2",), (three, "--seed", 2)):
        found = checks(golf("reproduce", *words, "--score-only", "--json"))
        assert found["bits per byte"]["ok"] and "to the bit" in found["bits per byte"]["why"]
        assert found["versions"]["ok"] and found["tokens and bytes"]["ok"]


def test_another_score_is_found(submission, golf, tmp_path):
    copy = shutil.copytree(submission, tmp_path / "copy")
    values = json.loads((copy / "submission.json").read_text())
    values["results"][0]["val_bpb"] -= 0.01
    (copy / "submission.json").write_text(json.dumps(values))
    found = checks(golf("reproduce", copy, "--score-only", "--json", code=1))
    assert found["bits per byte"]["ok"] is False and found["artifact as scored"]["ok"]


def test_a_submission_runs_again_to_the_bit(submission, golf):
    found = checks(golf("reproduce", submission, "--seed", 2, "--json"))
    assert "bit for bit" in found["artifact"]["why"] and "to the bit" in found["bits per byte"]["why"]


def test_a_record_that_ends_by_the_clock(small, golf, tmp_path):
    """A record's folder keeps results but neither weights nor script; its recipe is run, by the clock of the run that
    was published: another machine's steps take as long as they take, and the last stage begins where it began."""
    folder, out, again = shutil.copytree(small, tmp_path / small.name), tmp_path / "out", tmp_path / "again"
    recipe = folder / "recipe.py"
    recipe.write_text(recipe.read_text().replace("steps=8", "seconds=2"))
    golf("run", folder, "--seed", 1, "--out", out)
    shutil.copy(out / "results.json", folder)
    (folder / "README.md").write_text("Small.")
    for path in (folder, out / "1"):
        assert json.loads(golf("check", path, "--json").stdout)["ok"]
    found = checks(golf("reproduce", folder, "--json", "--out", again))
    assert "replayed" in found["clock"]["why"] and found["code"]["ok"]
    assert found["artifact"]["why"].startswith("bit for bit") and found["weights"]["ok"]
    assert (again / "1" / "artifact.golf").read_bytes() == (out / "1" / "artifact.golf").read_bytes()
    (why,) = (each["why"] for each in json.loads(golf("check", again / "1", "--json", code=1).stdout)["checks"]
              if each["ok"] is False)  # fmt: skip
    assert why.startswith("another run's, replayed")
    with pytest.raises(DataError, match="keeps no artifact"):
        golf("reproduce", folder, "--score-only")
    recipe.write_text(recipe.read_text().replace("seconds=2", "seconds=3"))
    printed = json.loads(golf("check", folder, "--json", code=1).stdout)["checks"]
    assert next(check["ok"] for check in printed if check["what"] == "results are the recipe's") is False


def test_what_is_not_there_is_said(three, golf, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no seed 9; it has 1, 2, 3"):
        golf("reproduce", three, "--seed", 9)
    monkeypatch.setenv("GOLF_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="is not on this machine"):
        golf("reproduce", three, "--score-only")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"versions": {"torch": "1.0"}}, "torch 1.0"),
        ({"hardware": "abacus"}, "hardware: abacus"),
        ({"recipe_digest": "x"}, "recipe_digest: x"),
        ({"steps": 9}, "steps: 9"),
        ({"bytes_model": 9}, "bytes_model: 9"),
        ({}, "the weights, in digits"),
    ],
)
def test_the_first_difference(three, change, difference):
    old = runs.read_result(three / "1")
    change = {k: old.versions | v if k == "versions" else v for k, v in change.items()}
    assert difference in reproduce.first_difference(old, replace(old, **change), {1: "2.0"}, {1: "2.0"})


def test_the_first_step_that_differs(three):
    old = runs.read_result(three / "1")
    found = reproduce.first_difference(old, old, {1: "2.0", 2: "1.9", 4: "1.5"}, {2: "1.90", 3: "1", 4: "1.6"})
    assert found == "the training loss at step 4: 1.6 / 1.5"


def test_the_interval_of_further_seeds(three):
    """99 % of further seeds: 9.92 deviations of three seeds, times sqrt(1 + 1/3)."""
    known = seeds.read(three)
    old = known.results[0]
    reach = 9.9248 * known.std * (4 / 3) ** 0.5
    for shift, good in ((0.99, True), (1.01, False), (-0.99, True), (-1.01, False)):
        new = replace(old, val_bpb=known.mean + shift * reach)
        assert reproduce.within(known, old, new).ok is good
    alone = seeds.Seeds("one", [old])
    assert reproduce.within(alone, old, old).ok and not reproduce.within(alone, old, replace(old, val_bpb=1.0)).ok


def test_text_in_the_tokens_of_several_tokenizers_is_kept_apart(three, tmp_path, monkeypatch):
    """Another run on the same text, with a tokenizer of its own, does not take the first one's place."""
    monkeypatch.setenv("GOLF_CACHE", str(tmp_path))
    ours = runs.read_result(three / "1")
    theirs = replace(ours, tokenizer_sha256="f" * 64)
    for result, name in ((ours, "ours"), (theirs, "theirs")):
        (tmp_path / name).mkdir()
        shard = (tmp_path / name / "val_000000.bin",)
        convert.remember(
            Corpus(
                name="documents", sha256=result.corpus_sha256, train=shard, val=shard, tokenizer=shard[0],
                tokenizer_sha256=result.tokenizer_sha256, tokenizer_counted=True, vocab=400, bos=1, speaker=Tokenizer,
            )
        )  # fmt: skip
    assert convert.text_of(ours, three).name == "ours" and convert.text_of(theirs, three).name == "theirs"
