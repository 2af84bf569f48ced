"""What every test shares: one thread, no network, a cache of its own, reasons for what cannot run here."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is loaded, by whichever test comes first: libgomp reads these once. Processes that tests start
# inherit them. One thread, because tests are small and other work on the machine should not slow them down.
for _name, _value in (
    ("OMP_WAIT_POLICY", "PASSIVE"),
    ("OMP_NUM_THREADS", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("HF_HUB_OFFLINE", "1"),
):
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


# Files of whole runs, which take longest: begun first, so that all processes end at about the same time.
LONG = ("tests/gallery/", "tests/test_pipeline.py", "tests/publish/")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of commands and ranks wait for the processes they start."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first. Tests marked `gpu` skip with the reason where there is no CUDA device."""
    items.sort(key=lambda item: [not item.nodeid.startswith(begin) for begin in LONG])
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def once(together: Path) -> Callable[[str, Callable[[Path], object]], Path]:
    """once(name, fill): a folder that `fill(folder)` filled in whichever process asked first. To be read only."""

    def get(name: str, fill: Callable[[Path], object]) -> Path:
        folder = together / "once" / name
        folder.parent.mkdir(exist_ok=True)
        with open(f"{folder}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.with_suffix(".full").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                folder.with_suffix(".full").touch()
        return folder

    return get


@pytest.fixture(scope="session", autouse=True)
def own_cache(together: Path) -> Iterator[Path]:
    """Prepared corpora and scripts, made once a session and away from the user's cache unless GOLF_CACHE says where."""
    if "GOLF_CACHE" in os.environ:
        yield Path(os.environ["GOLF_CACHE"])
        return
    os.environ["GOLF_CACHE"] = str(together / "cache")
    yield together / "cache"
    del os.environ["GOLF_CACHE"]


@pytest.fixture(scope="session")
def forks() -> multiprocessing.context.BaseContext:
    """Starts processes as forks of one that has loaded torch, which takes each of them seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytest", "golf.train.engine"])
    return context


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Oracles and data that lie beside the repository on some machines."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name}/ with oracles and data beside the repository")
    return folder


@pytest.fixture(scope="session")
def golf() -> Callable:
    """What a command printed. GolfErrors come through as in the real program."""
    from click.testing import CliRunner

    from golf.cli import cli

    def call(*words: object, code: int = 0):
        outcome = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
        assert outcome.exit_code == code, outcome.output
        return outcome

    return call


@pytest.fixture(scope="session")
def small(once: Callable) -> Path:
    """The folder of a small record. Tests read it, and the runs below, and write elsewhere."""
    from small_record import write_record

    return next(once("small", write_record).glob("records/*/*"))


@pytest.fixture(scope="session")
def three(small: Path, golf: Callable, once: Callable) -> Path:
    """OUT of three seeds of the small record."""
    words = [word for seed in (1, 2, 3) for word in ("--seed", seed)]
    return once("three", lambda folder: golf("run", small, *words, "--out", folder / "baseline")) / "baseline"


@pytest.fixture(scope="session")
def changed(small: Path, golf: Callable, once: Callable) -> Path:
    """OUT of the same seeds with a recipe that learns faster."""
    words = [word for seed in (1, 2, 3) for word in ("--seed", seed)]
    faster = ("--set", "train.matrix.lr=0.05", "--set", "train.embed.lr=0.02")
    return once("changed", lambda folder: golf("run", small, *words, "--out", folder / "faster", *faster)) / "faster"


@pytest.fixture(scope="session")
def two_ranks(small: Path, once: Callable) -> Path:
    """The first of those seeds again, as two processes of torchrun run it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "golf"]

    def run(folder: Path) -> None:
        words = ["run", str(small), "--seed", "1", "--out", str(folder)]
        done = subprocess.run([*torchrun, *words], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr

    return once("two_ranks", run) / "1"
