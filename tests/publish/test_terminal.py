"""What a person sees: every stage of a real run drawn on a terminal, plain lines where there is none."""

import io

import pytest
from rich.console import Console

from golf import recipe as recipes
from golf import run as corridor
from golf.contracts import Event
from golf.events import JsonLines, fan
from golf.host import Host
from golf.publish.terminal import ProgressBar


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Every event of one small run, as it was emitted."""
    from small_record import write_record

    folder = tmp_path_factory.mktemp("run")
    seen = []
    log = JsonLines(folder / "events.jsonl")
    recipe = recipes.load(write_record(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOLF_CACHE", str(folder / "cache"))  # the corpus is built here, whatever ran before
        corridor.run(recipe, corridor.Job(seed=1, out=folder, code=b"#", host=Host(), sink=fan(seen.append, log)))
    log.close()
    assert len(seen) == len((folder / "events.jsonl").read_text().splitlines())
    return seen


def drawn(events, terminal):
    bar = ProgressBar()
    bar.console = bar._bar.live.console = Console(force_terminal=terminal, width=120, file=io.StringIO())
    with bar:
        for event in events:
            bar(event)
    return bar


def test_a_terminal_shows_every_stage_with_its_facts(events):
    tasks = {task.description: task for task in drawn(events, True)._bar.tasks}
    assert list(tasks) == ["corpus", "compile", "train", "quantize", "score"]
    for word in ("loss", "lr", "tok/s"):
        assert word in tasks["train"].fields["facts"]
    assert "left" in tasks["train"].fields["left"] or tasks["train"].completed == 1
    assert "eager" in tasks["compile"].fields["facts"]
    assert "bytes" in tasks["quantize"].fields["facts"]
    assert all(task.completed == 1 for task in tasks.values())


def test_without_a_terminal_there_are_lines(events, capsys):
    drawn(events, False)
    printed = capsys.readouterr().err
    assert "final_sliding_exact val_loss:" in printed and "Total submission size:" in printed


def test_an_event_nobody_draws_is_passed_over():
    assert not drawn([Event("step_of_another_tool", {}), Event("result", {})], True)._bar.tasks
