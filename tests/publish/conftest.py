"""Finished seeds of the small record, run once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from small_record import write_documents, write_record

from golf.cli import cli


@pytest.fixture(scope="session")
def golf():
    """What a command printed. GolfErrors come through as in the real program."""

    def call(*words, code=0):
        outcome = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
        assert outcome.exit_code == code, outcome.output
        return outcome

    return call


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """The record's folder. Its text is its own, so that other tests still see theirs being prepared."""
    folder = tmp_path_factory.mktemp("small")
    record = write_record(folder)
    write_documents(folder / "documents.jsonl", count=401)
    return record


@pytest.fixture(scope="session")
def three(small, golf, tmp_path_factory) -> Path:
    """OUT of three seeds. Tests read it and write elsewhere."""
    out = tmp_path_factory.mktemp("three") / "baseline"
    golf("run", small, "--seed", 1, "--seed", 2, "--seed", 3, "--out", out)
    return out


@pytest.fixture(scope="session")
def changed(small, golf, tmp_path_factory) -> Path:
    """OUT of the same seeds with a recipe that learns faster."""
    out = tmp_path_factory.mktemp("changed") / "faster"
    words = [word for seed in (1, 2, 3) for word in ("--seed", seed)]
    golf("run", small, *words, "--out", out, "--set", "train.matrix.lr=0.05", "--set", "train.embed.lr=0.02")
    return out
