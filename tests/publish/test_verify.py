"""`golf verify` on golf's own runs, on processes that try things, and through the command."""

from __future__ import annotations

import json
import shutil
import tempfile

import numpy as np
import pytest

from golf.contracts import DataError, PredictorError, quiet
from golf.eval.validity import access
from golf.eval.validity.verdict import Status
from golf.publish.verify import data as verify_data
from golf.publish.verify import sandbox as verify_sandbox
from golf.publish.verify import suite as verify
from golf.publish.verify.packages import packaged_files
from golf.publish.verify.remote import Remote
from golf.publish.verify.suite import Tier

TIER = Tier(name="test", probe=0.3, rescore=60.0, scan=60.0)
PLAIN = b"""
import numpy as np
def open(artifact):
    return []
def observe(state, token):
    return [*state, token]
def distribution(state):
    return np.log(np.full(7, 1 / 7))
"""


@pytest.fixture(scope="module")
def run(three):
    return three / "1"


def statuses(report):
    return {verdict.check: verdict.status for verdict in report.verdicts}


def test_a_run_of_golf_passes(run):
    report = verify.verify(verify.open_subject(run), TIER, quiet)
    wrong = [f"{verdict.check}: {verdict.why}" for verdict in report.verdicts if verdict.status is Status.FAIL]
    assert report.ok, wrong
    found = statuses(report)
    for check in "C1a C1b C1c C2a C2b C2c C3b C3c C4a C4b B1 B2 B4 D1 D2 D4 A1 A2 A3 A4 A5 S3 S4".split():
        assert found[check] is Status.PASS, next(v for v in report.verdicts if v.check == check)


def test_a_run_whose_result_was_touched_up_does_not(run, tmp_path):
    touched = tmp_path / "1337"
    shutil.copytree(run, touched)
    values = json.loads((touched / "result.json").read_text())
    values["val_loss"] *= 0.99
    values["val_bpb"] *= 0.99
    (touched / "result.json").write_text(json.dumps(values))
    found = statuses(verify.verify(verify.open_subject(touched), verify.TIERS["static"], quiet))
    assert [check for check, status in found.items() if status is Status.FAIL] == ["S3"]


def test_documents_named_with_data_are_the_raw_text(run, tmp_path):
    texts = ["A plain text, spelled as it is.", "Golf's own tokenizers spell spaces at the end.  "]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    subject, facts = verify.open_subject(run, tmp_path / "val.jsonl"), {}
    assert list(subject.raw()) == texts
    subject.claim = None
    found = {verdict.check: verdict for verdict in verify_data.accounting_checks(subject, facts)}
    total = sum(len(text.encode()) for text in texts)
    assert found["B1"].status is Status.PASS and f"raw documents have {total}, 0 of them differ" in found["B1"].why
    assert (facts["bytes"]["raw"], facts["bytes"]["documents"]) == (total, 2)


def test_the_command(run, golf, tmp_path):
    page = tmp_path / "page.html"
    values = json.loads(golf("verify", run, "--tier", "static", "--json", "--html", page).stdout)
    assert values["ok"] and len(values["checks"]) == 35
    assert all(check["why"] for check in values["checks"])
    text = page.read_text()
    assert "no distribution depends on later tokens" in text and "://" not in text
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="neither"):
        verify.open_subject(tmp_path / "nothing")


def events_of(code, extra=(), calls=2):
    """What a predictor with some more lines at its top is seen to do."""
    with Remote("p.py", {"p.py": code + PLAIN, **dict(extra)}) as remote:
        state = remote.observe(remote.open("p.py"), 3)
        np.testing.assert_allclose(remote.distribution(state), np.log(np.full(7, 1 / 7)))
        return remote.events(), remote.place.folder


def judged(code, extra=()):
    events, clean = events_of(code, extra)
    found = access.smuggling(events, clean=clean, prefixes=verify_sandbox.prefixes(), packaged=packaged_files())
    return [*found, access.network(events, "here")]


@pytest.mark.parametrize(
    ("code", "check"),
    [
        (b"try:\n    open('/home/somebody/weights.bin')\nexcept OSError:\n    pass\n", "A3"),
        (b"import os\ntry:\n    os.open('/proc/2/mem', 0)\nexcept OSError:\n    pass\n", "A3"),
        (b"import subprocess\nsubprocess.run(['true'])\n", "A3"),
        (b"import os\nif not os.fork():\n    os._exit(0)\n", "A3"),
        (b"import os\ntry:\n    os.environ['SECRET']\nexcept KeyError:\n    pass\n", "A3"),
        (b"import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError:\n    pass\n", "A2"),
        (b"import pickle, collections\npickle.loads(pickle.dumps(collections.OrderedDict()))\n", "A5"),
        (b"import marshal\nmarshal.loads(marshal.dumps(1))\n", "A5"),
        (b"import os\nclass P:\n    def __fspath__(self): return '/bin/sh'\nos.close(os.open(P(), 0))\n", "A3"),
        (b"import posixpath\nposixpath.normpath = lambda path: __file__\nopen('/etc/../bin/sh').close()\n", "A3"),
        (b"import _xxsubinterpreters as more\nmore.destroy(more.create())\n", "A3"),
        (b"import fcntl, os\nfcntl.flock(os.open('p.py', 0), fcntl.LOCK_SH)\n", "A3"),
        (b"import sys\ntry:\n    open(sys.prefix + '/note', 'w')\nexcept OSError:\n    pass\n", "A3"),
        (b"import sys\nsys._getframe(0).f_back\nsys._current_frames()\n", "A3"),
    ],
)
def test_what_a_process_tries_is_seen(code, check):
    assert [verdict.check for verdict in judged(code) if verdict.status is Status.FAIL] == [check]


def test_what_any_process_does_is_nothing():
    code = b"import os, json, pathlib, tempfile\nos.environ.get('SEED', '1')\nopen('table.json').close()\n"
    code += b"list(pathlib.Path('.').iterdir()), os.listdir(b'.')\ntempfile.TemporaryFile().write(b'x')\n"
    assert all(verdict.status is Status.PASS for verdict in judged(code, {"table.json": b"{}"}))


def test_a_process_that_ends_tells_its_last_words():
    with pytest.raises(PredictorError, match="KeyError: 'WEIGHTS'"):
        Remote("p.py", {"p.py": b"import os\nos.environ['WEIGHTS']\n" + PLAIN})
    with Remote("p.py", {"p.py": PLAIN.replace(b"return [*state, token]", b"1 / 0")}) as remote:
        with pytest.raises(PredictorError, match="ZeroDivisionError"):
            remote.distribution(remote.observe(remote.open("x"), 1))


@pytest.mark.parametrize("line", [b"not json", b"[3]", b'{"shape": [1], "dtype": "O"}', b'{"shape": 4, "dtype": "f"}'])
def test_what_is_no_answer_is_told_as_one(line):
    code = b"import contextlib, os\n" + PLAIN.replace(b"return np", b"say()\n    return np")
    code += b"def say():\n    for number in range(3, 30):\n        with contextlib.suppress(OSError):\n"
    code += b"            os.write(number, " + repr(line + b"\n").encode() + b")\n"
    with Remote("p.py", {"p.py": code}) as remote, pytest.raises(PredictorError, match="is no answer"):
        remote.distribution(remote.observe(remote.open("p.py"), 1))


@pytest.mark.skipif(verify_sandbox.namespaces() != "files", reason="this machine gives processes no namespaces")
def test_processes_share_no_memory():
    code = b"from multiprocessing.shared_memory import SharedMemory as Shared\nKEPT = Shared('golf_note', True, 8)\n"
    with Remote("p.py", {"p.py": code + PLAIN}), Remote("p.py", {"p.py": code + PLAIN}) as second:
        assert second.scores  # it would not be made a second time


@pytest.mark.skipif(verify_sandbox.namespaces() != "files", reason="this machine gives processes no namespaces")
def test_the_clean_place_is_empty():
    code = b"import os\nSEEN = sorted(os.listdir('/')) + [os.path.exists('/proc/2'), len(os.environ)]\n"
    code += PLAIN.replace(b"return []", b"raise ValueError(SEEN)")
    with Remote("p.py", {"p.py": code}) as remote, pytest.raises(PredictorError) as told:
        remote.open("x")
    assert "submission" in str(told.value) and "'home'" not in str(told.value) and "False" in str(told.value)


@pytest.mark.skipif(verify_sandbox.namespaces() != "files", reason="this machine gives processes no namespaces")
def test_python_may_lie_below_tmp(monkeypatch):
    here = verify_sandbox.prefixes()
    with tempfile.TemporaryDirectory(dir="/tmp") as below:
        monkeypatch.setattr(verify_sandbox, "prefixes", lambda: (*here, below))
        assert verify_sandbox.namespaces.__wrapped__() == "files"
