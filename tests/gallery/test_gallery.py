"""Every broken submission is caught by the check meant for it; its sound twin passes everything."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import base

from golf.contracts import quiet
from golf.eval.validity.verdict import TITLES, Status
from golf.publish.verify import suite as verify
from golf.publish.verify.suite import Tier

# Time enough for a busy machine to score everything: what is left out for want of it catches nothing.
RUN = Tier(name="gallery", probe=0.15, rescore=240.0, scan=30.0)
# What is wrong with these can be read off their files; the predictor beside them is the one that others run.
READ = {"table_plus_one", "byte_pieces_as_text", "val_in_train", "over_the_cap", "late_stop", "dropped_seed",
        "doctored_log", "shipped_text", "text_in_code", "copied_log", "slow_clock", "folded_by_tokenizer",
        "repeated_documents", "unstated_bytes", "renamed_clock", "compiled_model", "reworded_in_train",
        "nameless_weights"}  # fmt: skip
NAMES = sorted(path.name for path in base.FIXTURES.iterdir() if path.is_dir())


def check_of(name):
    """The check that the first line of a broken fixture names."""
    return re.match(r'"""([A-Z]\d[a-e]?): ', (base.FIXTURES / name / "broken.py").read_text())[1]


def report(tmp_path, name, twin):
    tier = replace(RUN, runs=name not in READ)
    base.build(tmp_path / name, base.FIXTURES / name / f"{twin}.py")
    return verify.verify(verify.open_subject(tmp_path / name), tier, quiet)


@pytest.mark.parametrize("name", NAMES)
def test_the_broken_one_is_caught(name, tmp_path):
    found = report(tmp_path, name, "broken")
    verdict = next(verdict for verdict in found.verdicts if verdict.check == check_of(name))
    assert verdict.status is Status.FAIL, "\n".join(f"{v.check} {v.status.value}: {v.why}" for v in found.verdicts)
    assert not found.ok


@pytest.mark.parametrize("name", NAMES)
def test_its_sound_twin_passes(name, tmp_path):
    found = report(tmp_path, name, "sound")
    assert [f"{v.check}: {v.why}" for v in found.verdicts if v.status is Status.FAIL] == []


def test_every_verdict_says_something():
    assert len(TITLES) == len(set(TITLES)) == 35
