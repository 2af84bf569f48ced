"""Published FineWeb exports from the Hugging Face hub: resumable, every file checked by its hash."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from golf.contracts import DataError, Sink, emit
from golf.data import shards
from golf.data.corpus import file_sha256
from golf.data.tokenizer import Tokenizer
from golf.host import write_atomic

REPOSITORY = "willdepueoai/parameter-golf"
MANIFEST, INCOMING = "fetched.json", ".incoming"
CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Remote:
    """A file of a repository. `sha256` is empty where the hub does not tell (small files outside of LFS)."""

    path: str
    bytes: int
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Hub(Protocol):
    """What fetching needs of a hub. Both raise DataError when it cannot be reached or does not have it."""

    def files(self, repo: str) -> Iterable[Remote]: ...

    def download(self, repo: str, path: str, folder: Path) -> Path:
        """Somewhere under `folder`, where an interrupted download is continued."""
        ...


class HuggingFace:
    """The real hub, through the optional package huggingface_hub."""

    def __init__(self, endpoint: str | None = None) -> None:
        """`endpoint`: a mirror's address. Raises DataError when the package is missing."""
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError as error:
            raise DataError(
                "fetching needs the package huggingface_hub; install it with `pip install golf[hub]`"
            ) from error
        self._api, self._endpoint = huggingface_hub.HfApi(endpoint=endpoint), endpoint
        self._download = huggingface_hub.hf_hub_download
        self._failures = (OSError, errors.HTTPError, errors.HFValidationError)

    def files(self, repo: str) -> Iterator[Remote]:
        with self._translated(repo):
            # Unlike listing the tree, this is one request without retries: offline, the answer comes at once.
            about = self._api.dataset_info(repo, files_metadata=True, timeout=CONNECT_SECONDS)
        for entry in about.siblings:
            yield Remote(entry.rfilename, entry.size, entry.lfs.sha256 if entry.lfs else "")

    def download(self, repo: str, path: str, folder: Path) -> Path:
        with self._translated(repo):
            found = self._download(
                repo, path, repo_type="dataset", local_dir=folder, endpoint=self._endpoint,
                etag_timeout=CONNECT_SECONDS,
            )  # fmt: skip
        return Path(found)

    @contextlib.contextmanager
    def _translated(self, repo: str) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{repo} cannot be read from the hub ({reason}); check the name, the connection and "
                "HF_HUB_OFFLINE, or copy the published files to where they are wanted"
            ) from error


def fetch(
    repo: str,
    folder: Path,
    *,
    tokenizer: str = "sp1024",
    train_shards: int = 80,
    sink: Sink,
    hub: Hub | None = None,
) -> tuple[Path, ...]:
    """The tokenizer, all validation shards and the first `train_shards` training shards of an export, in
    `folder`.

    A file that is there with the right hash is not fetched again. Each new one is compared with the hub's
    size and hash and read as what it should be before it gets its name, then noted in the manifest
    `fetched.json`. Raises DataError when the hub cannot be reached, lacks the export, or sends other bytes
    than it promised.
    """
    hub = hub or HuggingFace()
    wanted = select(list(hub.files(repo)), tokenizer, train_shards, repo)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = _read_manifest(folder / MANIFEST)
    for done, remote in enumerate(wanted):
        emit(sink, "fetch", what=remote.name, done=done, total=len(wanted))
        path = folder / remote.name
        sha256 = remote.sha256 or manifest.get(remote.name, {}).get("sha256", "")
        if not (path.is_file() and path.stat().st_size == remote.bytes and file_sha256(path) == sha256):
            sha256 = _get(hub, repo, remote, folder)
        manifest[remote.name] = {"bytes": remote.bytes, "sha256": sha256, "repo": repo, "path": remote.path}
        write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    shutil.rmtree(folder / INCOMING, ignore_errors=True)
    emit(sink, "fetch", what="done", done=len(wanted), total=len(wanted))
    return tuple(folder / remote.name for remote in wanted)


def select(files: Sequence[Remote], tokenizer: str, train_shards: int, repo: str) -> list[Remote]:
    """The files of an export: tokenizer, validation shards, the first `train_shards` training shards.

    Shards are looked for in folders whose name ends in the tokenizer's; of several, the one with the most
    training shards. Byte sidecars do not match. Raises DataError when any of it is missing, or too many
    shards are asked for.
    """
    folders: dict[str, dict[str, list[Remote]]] = {}
    for remote in sorted(files, key=lambda remote: remote.path):
        if found := re.fullmatch(rf"(.*_{tokenizer})/fineweb_(train|val)_\d{{6}}\.bin", remote.path):
            folders.setdefault(found[1], {"train": [], "val": []})[found[2]].append(remote)
    name = f"fineweb_{tokenizer.removeprefix('sp')}_bpe.model"
    models = [remote for remote in files if remote.name == name]
    complete = [home for home, found in folders.items() if found["train"] and found["val"]]
    if not complete or not models:
        missing = f"file {name}" if complete else f"folder *_{tokenizer} with shards of both splits"
        raise DataError(f"{repo} has no {missing}; choose another --tokenizer or --repo")
    home = max(complete, key=lambda home: len(folders[home]["train"]))
    train, val = folders[home]["train"], folders[home]["val"]
    if not 1 <= train_shards <= len(train):
        raise DataError(
            f"train_shards={train_shards} is out of range: {repo} has {len(train)} for {tokenizer}; "
            f"give 1..{len(train)}"
        )
    # Exports made at different times lie under different roots, each with tokenizers of its own.
    model = max(models, key=lambda remote: remote.path.partition("/")[0] == home.partition("/")[0])
    return [model, *val, *train[:train_shards]]


def _get(hub: Hub, repo: str, remote: Remote, folder: Path) -> str:
    """Download one file and give it its name; its SHA-256."""
    path = hub.download(repo, remote.path, folder / INCOMING)
    size, sha256 = path.stat().st_size, file_sha256(path)
    if size != remote.bytes or (remote.sha256 and sha256 != remote.sha256):
        path.unlink()
        raise DataError(
            f"{remote.path} of {repo} arrived with {size:,} bytes and SHA-256 {sha256[:16]}..., promised "
            f"were {remote.bytes:,} and {remote.sha256[:16] or 'any'}...; run the command again"
        )
    if path.suffix == ".bin":
        shards.read(path)
    else:
        Tokenizer(path)
    os.replace(path, folder / remote.name)
    return sha256


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(f"manifest {path} is not JSON ({error}); delete it and run the command again") from error
