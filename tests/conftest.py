"""What every test shares: one thread, no network, a cache of its own, reasons for what cannot run here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip with the reason where there is no CUDA device."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[Path]:
    """Prepared corpora, built once a session and away from the user's cache unless GOLF_CACHE says where."""
    if "GOLF_CACHE" in os.environ:
        yield Path(os.environ["GOLF_CACHE"])
        return
    folder = Path(tempfile.mkdtemp(prefix="golf-cache-"))
    os.environ["GOLF_CACHE"] = str(folder)
    yield folder
    del os.environ["GOLF_CACHE"]
    shutil.rmtree(folder, ignore_errors=True)


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
