"""Events: every line whole, a killed run's half line cut off, plain logs spelled as readers grep for them."""

import json

from golf.contracts import Event, emit
from golf.events import JsonLines, fan, lines


def test_json_lines_round_trip(tmp_path):
    log = JsonLines(tmp_path / "deep" / "events.jsonl")
    emit(log, "step", step=3, loss=1.5)
    emit(log, "final", what="sliding", bpb=2.0)
    log.close()
    read = [json.loads(line) for line in (tmp_path / "deep" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in read] == ["step", "final"]
    assert read[0]["loss"] == 1.5 and read[0]["at"] >= 0


def test_append_cuts_a_half_written_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "step", "step": 1}\n{"event": "st')
    log = JsonLines(path, append=True)
    emit(log, "step", step=2)
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_without_append_an_old_log_is_replaced(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("old\n")
    JsonLines(path).close()
    assert path.read_text() == ""


def test_fan_reaches_every_sink_in_order():
    seen = []
    sink = fan(lambda event: seen.append(("a", event.kind)), lambda event: seen.append(("b", event.kind)))
    sink(Event("step", {}))
    assert seen == [("a", "step"), ("b", "step")]


def test_final_line_names_what_was_scored():
    written = []
    sink = lines(written.append)
    emit(sink, "final", what="sliding", loss=2.5, bpb=1.25, seconds=3.0, tokens=10, bytes=20)
    emit(sink, "unheard", anything=1)
    assert written == [
        "final_sliding_exact val_loss:2.50000000 val_bpb:1.25000000 eval_time:3.0s tokens:10 bytes:20"
    ]
