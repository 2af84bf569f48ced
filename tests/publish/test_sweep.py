"""Sweeps: what is tried, that nothing is lost or counted twice, and a worker killed in mid-trial."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from golf.contracts import SpecError
from golf.publish.submit import several
from golf.publish.sweep import study as sweep
from golf.publish.sweep import worker as sweep_worker
from golf.publish.sweep.study import Outcome, Range

optuna = pytest.importorskip("optuna")
LR = "train.matrix.lr"


def plan(small, *texts, method="grid", seeds=1, trials=8):
    return sweep.plan(small, texts, method=method, seeds=seeds, trials=trials)


# ------------------------------------------------------------------------------------------------------ what is tried


def test_a_grid_is_every_combination(small):
    made = plan(small, f"{LR}=0.01,0.02", "model.layers=2,3,4", "train.steps=9")
    points = made.points()
    assert len(points) == made.trials == 6 and len({tuple(point.items()) for point in points}) == 6
    assert made.assignments(points[0]) == ["train.steps=9", f"{LR}=0.01", "model.layers=2"]


def test_random_points_are_the_same_everywhere(small):
    texts = (f"{LR}=0.001..0.1:log", "model.layers=2..4", "train.ema=0.9,0.99")
    points = plan(small, *texts, method="random", trials=200).points()
    assert points == plan(small, *texts, method="random", trials=200).points()
    assert all(0.001 <= point[LR] <= 0.1 for point in points)
    assert {point["model.layers"] for point in points} == {2, 3, 4}
    assert 60 < sum(point[LR] < 0.01 for point in points) < 140  # half of a range by ratio lies below its middle


def test_values_with_commas(small):
    made = plan(small, "model.values.layers=-1;-2,-1")
    assert made.axes == {"model.values.layers": ("-1", "-2,-1")}
    assert plan(small, f"{LR}=1..2", method="tpe").axes[LR] == Range(1.0, 2.0, False, True)


def test_a_folder_above_is_no_range(small):
    made = plan(small, "data.train=../shards/web.jsonl", f"{LR}=0.01,0.02")
    assert made.fixed == ("data.train=../shards/web.jsonl",) and list(made.axes) == [LR]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.steps=9", "nothing to sweep"),
        ("train.secnds=1,2", "did you mean 'seconds'"),
        (f"{LR}=fast,slow", "takes float"),
        (f"{LR}=1..2", "a grid needs single values"),
        (f"{LR}=2..1", "a range rises"),
        (f"{LR}=0..1:log", "begins above 0"),
        (f"{LR}=a..b", "low..high of numbers"),
    ],
)
def test_what_cannot_be_swept_is_said(small, text, message):
    with pytest.raises(SpecError, match=message):
        plan(small, text)


def test_a_storage_holds_one_sweep(small, tmp_path):
    storage = str(tmp_path / "journal")
    sweep.open_study(storage, plan(small, f"{LR}=0.01,0.02"))
    again = sweep.open_study(storage, plan(small, f"{LR}=0.01,0.02"))
    assert len(again.trials) == 2  # queued once
    with pytest.raises(SpecError, match="another sweep"):
        sweep.open_study(storage, plan(small, f"{LR}=0.01,0.03"))


def test_the_front_and_the_count_of_slots(small, tmp_path):
    made = plan(small, f"{LR}=0.01,0.02,0.03")
    study = sweep.open_study(str(tmp_path / "journal"), made)
    study.enqueue_trial({LR: "0.01"}, user_attrs={sweep.SLOT: 0})  # queued twice, as by one who was taken for dead
    for score in (1.0, 2.0, 3.0, 0.5):
        trial = study.ask()
        sweep.suggest(made, trial)
        study.tell(trial, score)
    assert [each.val_bpb for each in sweep.outcomes(study, made)] == [1.0, 2.0, 3.0]
    sized = [Outcome(0, {}, "complete", 1.2, None, 10), Outcome(1, {}, "complete", 1.3, None, 20)]
    better = Outcome(2, {}, "complete", 1.1, None, 30)
    assert sweep.pareto([*sized, better, Outcome(3, {}, "failed")]) == [sized[0], better]


def test_a_line_cut_off_in_the_journal_hides_no_other(small, tmp_path):
    """A machine went down in mid-line: what is appended later is read, what was half written never was."""
    file, made = tmp_path / "journal", plan(small, f"{LR}=0.01,0.02")
    study = sweep.open_study(str(file), made)
    trial = study.ask()
    sweep.suggest(made, trial)
    with open(file, "ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"half')
    study.tell(trial, 1.5)
    assert [each.state for each in sweep.outcomes(sweep.open_study(str(file), made), made)] == ["complete", "open"]


@pytest.mark.parametrize(
    ("storage", "message"),
    [("nonsense://x", "cannot be opened"), ("folder", "is a folder"), ("other.txt", "is no journal of a sweep")],
)
def test_storages_that_cannot_be(small, tmp_path, storage, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.txt").write_text("notes\n")
    with pytest.raises(SpecError, match=message):
        sweep.open_study(storage if "://" in storage else str(tmp_path / storage), plan(small, f"{LR}=0.01,0.02"))


# -------------------------------------------------------------------------------------------------- runs of no model


@pytest.fixture
def played(monkeypatch, three):
    """Runs that end at once: a slot's score is its learning rate, and higher than 0.06 fails."""
    result = json.loads((three / "1" / "result.json").read_text())

    class Ended:
        def __init__(self, status):
            self.status = status

        def wait(self):
            return self.status

    def start(seeds, seed, environment, ranks=1):
        lr = float(dict(text.split("=") for text in seeds.assignments)[LR])
        folder = seeds.out / str(seed)
        folder.mkdir(parents=True)
        (folder / several.LOG).write_text(f"golf: too fast: {lr}\n")
        values = result | {"val_bpb": lr, "val_bpb_unquantized": lr, "seed": seed}
        (folder / "result.json").write_text(json.dumps(values))
        return Ended(1 if lr > 0.06 else 0)

    monkeypatch.setattr(several, "start", start)


def run(small, made, out):
    storage = str(out / sweep.JOURNAL)
    return sweep_worker.work(small, made, storage, out, patience=60, ranks=1, say=lambda text: None)


def test_a_slot_that_fails_is_an_outcome(small, played, tmp_path):
    found = run(small, plan(small, f"{LR}=0.01,0.07,0.03"), tmp_path)
    assert [(each.state, each.val_bpb) for each in found] == [("complete", 0.01), ("failed", None), ("complete", 0.03)]
    assert "too fast: 0.07" in found[1].why
    assert json.loads((tmp_path / "sweep.json").read_text())["pareto"] == [0]


def test_hopeless_points_are_pruned_after_a_seed(small, played, tmp_path):
    found = run(small, plan(small, f"{LR}=0.01,0.011,0.012,0.05,0.009", seeds=3), tmp_path)
    assert [each.state for each in found] == ["complete", "complete", "complete", "pruned", "complete"]


def test_tpe_gathers_where_it_is_good(small, played, tmp_path):
    found = run(small, plan(small, f"{LR}=0.001..0.05", method="tpe", trials=25), tmp_path)
    assert len(found) == 25 and all(each.state == "complete" for each in found)
    late = sum(each.val_bpb for each in found[15:]) / 10
    assert late < sum(each.val_bpb for each in found[:10]) / 10


def test_what_a_silent_worker_elsewhere_held_runs_again(small, played, tmp_path, monkeypatch):
    """No process to ask, so patience decides; the one who comes back late finds its slot given away."""
    made = plan(small, f"{LR}=0.01,0.02")
    study = sweep.open_study(str(tmp_path / sweep.JOURNAL), made)
    lost = study.ask()
    lost.set_user_attr(sweep_worker.WORKER, "elsewhere:1:abcd")
    study.set_user_attr(sweep_worker.BEAT + "elsewhere:1:abcd", 5)
    monkeypatch.setattr(sweep_worker, "LOOK", 0.05)
    storage, said = str(tmp_path / sweep.JOURNAL), []
    found = sweep_worker.work(small, made, storage, tmp_path, patience=0.6, ranks=1, say=said.append)
    assert [each.state for each in found] == ["complete", "complete"]
    assert any("runs again" in text for text in said)
    late = []
    sweep_worker._run(study, lost, small, made, tmp_path / "late", 1, late.append)
    assert "dropped" in late[-1] and [e.val_bpb for e in sweep.outcomes(study, made)] == [0.01, 0.02]


# ---------------------------------------------------------------------------------------------------- real workers

# A worker whose runs wait for a sign and end with the learning rate as score: what is tested is who runs what.
WORKER = """
import sys
from golf.cli import cli
from golf.publish.submit import several

RUN = '''
import json, sys, time
from pathlib import Path
folder, result, lr = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), float(sys.argv[3])
while not Path(sys.argv[4]).exists():
    time.sleep(0.05)
(folder / "result.json").write_text(json.dumps(result | {"val_bpb": lr, "val_bpb_unquantized": lr}))
'''

def start(seeds, seed, environment, ranks=1):
    folder = seeds.out / str(seed)
    folder.mkdir(parents=True)
    lr = dict(text.split("=") for text in seeds.assignments)["train.matrix.lr"]
    return several.subprocess.Popen([sys.executable, "-c", RUN, str(folder), sys.argv[1], lr, sys.argv[2]])

several.start = start
cli(sys.argv[3:])
"""


@pytest.fixture(params=["journal", "postgresql"])
def shared(request, tmp_path):
    """A storage that two workers may share."""
    if request.param == "journal":
        yield str(tmp_path / "shared" / "journal")
        return
    pytest.importorskip("psycopg", reason="no driver here: pip install 'psycopg[binary]'")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs or shutil.which("runuser") is None or os.getuid() != 0:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql, as root")
    home = tempfile.mkdtemp(prefix="golf-postgres-")
    shutil.chown(home, "postgres")
    tools = programs[-1].parent

    def server(*words):
        done = ["runuser", "-u", "postgres", "--", *map(str, words)]
        subprocess.run(done, check=True, cwd=home, stdout=subprocess.DEVNULL)

    server(tools / "initdb", "-D", f"{home}/data", "-A", "trust")
    options = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
    server(tools / "pg_ctl", "-D", f"{home}/data", "-o", options, "-l", f"{home}/log", "-w", "start")
    yield f"postgresql:///postgres?host={home}&user=postgres"
    server(tools / "pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")
    shutil.rmtree(home)


def test_two_workers_one_of_them_killed(small, three, tmp_path, shared):
    """Its trial is run again; none is lost or counted twice."""
    sign, rates = tmp_path / "sign", "0.01,0.02,0.03,0.04"
    words = [sys.executable, "-c", WORKER, str(three / "1" / "result.json"), str(sign), "sweep", str(small), "--set"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    workers = [
        subprocess.Popen([*words, f"{LR}={rates}", "--join", shared, "--out", str(tmp_path / name)], **pipes)
        for name in ("one", "two")
    ]
    made = plan(small, f"{LR}={rates}")
    study = sweep.open_study(shared, made)

    def at_work():
        return [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING" and "worker" in t.user_attrs]

    while len(at_work()) < 2:  # each holds one, and no run ends before the sign
        time.sleep(0.05)
        assert all(worker.poll() is None for worker in workers)
    held = [t for t in at_work() if f":{workers[0].pid}:" in t.user_attrs["worker"]]
    os.killpg(workers[0].pid, signal.SIGKILL)  # with the run it had started
    workers[0].communicate()  # until somebody asks how it ended, the process counts as there
    sign.touch()
    _, said = workers[1].communicate(timeout=200)
    assert workers[1].returncode == 0, said
    found = json.loads((tmp_path / "two" / "sweep.json").read_text())["outcomes"]
    assert [(each["state"], each["val_bpb"]) for each in found] == [("complete", float(r)) for r in rates.split(",")]
    slot = held[0].user_attrs["slot"]
    assert f"slot {slot}: its worker is gone, it runs again" in said
    trials = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("slot") == slot]
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE"]
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    assert sorted(t.user_attrs["slot"] for t in ended) == [0, 1, 2, 3]
