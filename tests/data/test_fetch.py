"""Fetching from a folder that stands in for the hub, and from a hub on this machine's own network."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from golf.contracts import DataError
from golf.data import fetch, shards, tokenizer
from golf.data.fetch import Remote
from golf.data.fineweb import FineWeb
from golf.data.tokenizer import Tokenizer

TEXTS = [f"Row {n} lists {n % 29} stones of color {n % 13}. " * 4 for n in range(200)]
REPO = "someone/export"


def quiet(event):
    pass


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A repository: four training shards, one of validation with a sidecar, two tokenizers, other files."""
    root = tmp_path_factory.mktemp("export")
    model = tokenizer.train(TEXTS, 320)
    home = root / "v2" / "datasets" / "fineweb10B_sp320"
    arrays = list(Tokenizer(model).encode_documents(TEXTS))
    tokens = np.concatenate(arrays)
    shards.write(home / "fineweb_train_%06d.bin", [tokens], len(tokens) // 4 + 1)
    (val,) = shards.write(home / "fineweb_val_%06d.bin", arrays[:30])
    (home / "fineweb_val_bytes_000000.bin").write_bytes(val.read_bytes())
    for place in ("v1", "v2"):
        (root / place / "tokenizers").mkdir(parents=True, exist_ok=True)
        data = model if place == "v2" else tokenizer.train(TEXTS[:100], 310)
        (root / place / "tokenizers" / "fineweb_320_bpe.model").write_bytes(data)
    (root / "README.md").write_text("not part of an export")
    return root


class Folder:
    """A folder as a hub. `tell`: whether it knows hashes; `break_at`: the download that fails, as a cut line would."""

    def __init__(self, root, tell=True, break_at=None):
        self.root, self.tell, self.break_at, self.downloads = root, tell, break_at, []

    def files(self, repo):
        for path in self.root.rglob("*"):
            if path.is_file():
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if self.tell else ""
                yield Remote(str(path.relative_to(self.root)), path.stat().st_size, sha256)

    def download(self, repo, path, folder):
        if len(self.downloads) == self.break_at:
            raise DataError("the line was cut; try again")
        self.downloads.append(path.rpartition("/")[2])
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.root / path, target)
        return target


NAMES = ["fineweb_320_bpe.model", "fineweb_val_000000.bin", "fineweb_train_000000.bin", "fineweb_train_000001.bin"]


def get(hub, folder, **options):
    return fetch.fetch(REPO, folder, **{"tokenizer": "sp320", "train_shards": 2, "sink": quiet, "hub": hub} | options)


def test_an_export_arrives_and_opens_as_a_corpus(export, tmp_path):
    hub, events = Folder(export), []
    home = tmp_path / "cache" / "fineweb" / "sp320"
    paths = get(hub, home, sink=events.append)
    assert hub.downloads == NAMES == [path.name for path in paths]
    assert sorted(path.name for path in home.iterdir()) == sorted([*NAMES, "fetched.json"])
    manifest = json.loads((home / "fetched.json").read_bytes())
    for name in NAMES:
        data = (home / name).read_bytes()
        assert manifest[name]["bytes"] == len(data)
        assert manifest[name]["sha256"] == hashlib.sha256(data).hexdigest()
    assert [event.values["done"] for event in events] == [0, 1, 2, 3, 4]
    made = FineWeb(tokenizer="sp320", train_shards=2).open(tmp_path / "cache", quiet)
    assert made.tokenizer.read_bytes() == (export / "v2" / "tokenizers" / "fineweb_320_bpe.model").read_bytes()


@pytest.mark.parametrize("tell", [True, False])
def test_an_interrupted_fetch_goes_on_where_it_stopped(export, tmp_path, tell):
    with pytest.raises(DataError, match="line was cut"):
        get(Folder(export, tell, break_at=2), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {*NAMES[:2], "fetched.json"}
    hub = Folder(export, tell)
    get(hub, tmp_path)
    assert hub.downloads == NAMES[2:]
    again = Folder(export, tell)
    get(again, tmp_path)
    assert again.downloads == []
    more = Folder(export, tell)
    get(more, tmp_path, train_shards=4)
    assert more.downloads == ["fineweb_train_000002.bin", "fineweb_train_000003.bin"]


@pytest.mark.parametrize("tell", [True, False])
def test_an_altered_file_is_fetched_again(export, tmp_path, tell):
    get(Folder(export), tmp_path)
    path = tmp_path / NAMES[2]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    hub = Folder(export, tell)
    get(hub, tmp_path)
    assert hub.downloads == [NAMES[2]]


def test_a_copy_by_hand_is_recognized_by_the_hub_hash(export, tmp_path):
    shutil.copyfile(export / "v2" / "datasets" / "fineweb10B_sp320" / NAMES[1], tmp_path / NAMES[1])
    hub = Folder(export)
    get(hub, tmp_path)
    assert NAMES[1] not in hub.downloads


@pytest.mark.parametrize("tell", [True, False])
def test_other_bytes_than_promised_are_refused(export, tmp_path, tell):
    class Liar(Folder):
        def download(self, repo, path, folder):
            target = super().download(repo, path, folder)
            data = target.read_bytes()
            if path.endswith("train_000000.bin"):
                target.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if self.tell else data[:-2])
            return target

    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin of someone/export arrived with"):
        get(Liar(export, tell), tmp_path)
    assert not (tmp_path / NAMES[2]).exists()
    get(Folder(export, tell), tmp_path)


def test_a_file_that_is_no_shard_is_refused(export, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(export, root)
    bad = root / "v2" / "datasets" / "fineweb10B_sp320" / "fineweb_val_000000.bin"
    bad.write_bytes(b"<html>" * 400)
    with pytest.raises(DataError, match="it is no token shard"):
        get(Folder(root), tmp_path / "out")
    assert not (tmp_path / "out" / "fineweb_val_000000.bin").exists()


def test_what_the_repository_lacks_is_named(export, tmp_path):
    with pytest.raises(DataError, match=r"has no folder \*_sp999 with shards of both splits"):
        get(Folder(export), tmp_path, tokenizer="sp999")
    for wrong in (0, 5):
        with pytest.raises(DataError, match=rf"train_shards={wrong} is out of range: someone/export has 4"):
            get(Folder(export), tmp_path, train_shards=wrong)
    remotes = [r for r in Folder(export).files(REPO) if not r.path.endswith(".model")]
    with pytest.raises(DataError, match=r"has no file fineweb_320_bpe\.model"):
        fetch.select(remotes, "sp320", 1, REPO)


def test_a_broken_manifest_is_named(export, tmp_path):
    (tmp_path / "fetched.json").write_text("{")
    with pytest.raises(DataError, match="delete it and run the command again"):
        get(Folder(export), tmp_path)


# ------------------------------------------------------------------------------- through huggingface_hub


@pytest.fixture
def endpoint(export, monkeypatch):
    """A hub of one repository on this machine, with the few answers that listing and downloading ask for."""

    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests' own setting, which spares the network

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = unquote(urlsplit(self.path).path)
            resolve = f"/datasets/{REPO}/resolve/main/"
            if path in (f"/api/datasets/{REPO}", f"/api/datasets/{REPO}/revision/main"):
                siblings = [
                    {"rfilename": r.path, "size": r.bytes, "blobId": "0" * 40}
                    | ({"lfs": {"sha256": r.sha256, "size": r.bytes, "pointerSize": 1}} if r.bytes > 5000 else {})
                    for r in Folder(export).files(REPO)
                ]
                self.send(200, json.dumps({"id": REPO, "siblings": siblings}).encode(), {}, body)
            elif path.startswith(resolve) and (export / path.removeprefix(resolve)).is_file():
                data = (export / path.removeprefix(resolve)).read_bytes()
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self.send(200, data, {"ETag": etag, "X-Repo-Commit": "1" * 40}, body)
            else:
                self.send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)

        def send(self, status, data, headers, body):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_real_library_fetches_from_a_hub(export, tmp_path, endpoint):
    paths = get(fetch.HuggingFace(endpoint), tmp_path)
    home = export / "v2" / "datasets" / "fineweb10B_sp320"
    assert [path.name for path in paths] == NAMES
    assert all(path.read_bytes() == (home / path.name).read_bytes() for path in paths[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*NAMES, "fetched.json"])


def test_an_unknown_repository_and_no_connection_are_one_sentence(tmp_path, endpoint):
    for address, repo in ((endpoint, "someone/else"), ("http://127.0.0.1:9", REPO)):
        with pytest.raises(DataError, match=f"{repo} cannot be read from the hub") as caught:
            fetch.fetch(repo, tmp_path, sink=quiet, hub=fetch.HuggingFace(address))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_offline_is_one_sentence(tmp_path, endpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"offline mode is enabled.*; check the name, the connection and HF_HUB_"):
        fetch.fetch(REPO, tmp_path, sink=quiet, hub=fetch.HuggingFace(endpoint))
