"""The leaderboard: what is compared with what, and the page in a real browser."""

import json
import shutil

import pytest
from chrome import Chrome, check_page

from golf.contracts import DataError
from golf.publish.board import page as board_page
from golf.publish.board import ranking as boards
from golf.publish.board.ranking import Group, Row


def row(number, bpb, size=None, date=None, seeds=(), **more):
    names = "corpus kind author val_bpb_std train_seconds parameters bits_per_weight verified parent"
    values = dict.fromkeys(names.split())
    return Row(**values | {
        "number": number, "name": f"n{number}", "path": f"p{number}", "track": "t", "date": date, "val_bpb": bpb,
        "seeds": {str(place): score for place, score in enumerate(seeds)}, "bytes_total": size, "cap": 100,
    } | more)  # fmt: skip


def test_each_is_compared_with_the_best_before_it():
    rows = [
        row(1, 1.20, date="2026-01-01", seeds=(1.19, 1.21)),
        row(2, 1.10, date="2026-01-02", seeds=(1.09, 1.11)),
        row(3, 1.15, date="2026-01-03", seeds=(1.15,)),
        row(4, 1.00, date="2026-01-03", seeds=(0.99, 1.01)),
        row(5, None, date="2026-01-04"),
        row(6, 1.05),
    ]
    found = {each.number: each for each in boards.ranked(rows)}
    assert [each.number for each in boards.ranked(rows)] == [4, 6, 2, 3, 1, 5]
    assert found[1].before is None and found[6].before is None and found[5].before is None
    assert (found[2].before, found[3].before, found[4].before) == ("n1", "n2", "n2")
    assert found[2].delta == pytest.approx(0.10) and found[3].delta == pytest.approx(-0.05)
    assert found[3].p is None and 0 < found[4].p < 0.05


def test_the_front_holds_what_nobody_beats():
    rows = (row(1, 1.2, 10), row(2, 1.1, 20), row(3, 1.15, 30), row(4, 1.0, 40), row(5, 0.9), row(6, 1.2, 10))
    assert [each.number for each in Group("t", None, None, rows).pareto] == [1, 2, 4]


def test_records_runs_and_submissions_on_one_board(three, changed, golf, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(three, folder / "2026-01-01_first")
    golf("submit", changed, "-o", folder / "2026-01-02_second", "--author", "A", "--parent", three)
    (folder / "2026-01-02_second" / "validity.json").write_text('{"ok": true}')
    (folder / "odd").mkdir()
    (folder / "odd" / "submission.json").write_text('{"name": "<b>odd</b>", "val_bpb": "low"}')
    printed = json.loads(golf("board", folder, "--json").stdout)
    ours = next(group for group in printed if group["track"] == "cpu_5min_1mb")
    by_author = {entry["author"]: entry for entry in ours["rows"]}
    assert by_author["A"]["verified"] is True and by_author[None]["verified"] is None
    for verdict, shown in (({"ok": True, "tier": "static"}, None), ({"ok": False, "tier": "static"}, False)):
        (folder / "2026-01-02_second" / "validity.json").write_text(json.dumps(verdict))
        assert boards.find(folder / "2026-01-02_second")[0].verified is shown  # what ran nothing can only refute
    paths = [change["path"] for change in by_author["A"]["changes"]]
    assert paths == ["train.matrix.lr", "train.embed.lr"]
    odd = next(group for group in printed if group["track"] is None)["rows"][0]
    assert odd["val_bpb"] is None and any("not usable" in note for note in odd["notes"])
    assert "<b>odd</b>" not in board_page.page(boards.board([folder]), "x")
    assert "faster" in golf("board", folder).stdout or "small" in golf("board", folder).stdout


def test_rows_of_one_name_say_where_they_lie():
    rows = [row(1, 1.2, name="a", path="x/results.json"), row(2, 1.1, name="a", path="y/results.json"), row(3, 1.0)]
    assert [each.name for each in boards.told_apart(rows)] == ["a (x)", "a (y)", "n3"]


def test_the_same_runs_are_listed_once(three, golf, tmp_path):
    """Handed in, put together and one by one, under any spelling of the path; a file that is broken hides nothing."""
    out, handed_in = tmp_path / "runs", tmp_path / "submissions"
    shutil.copytree(three, out / "small")
    golf("submit", three, "-o", handed_in / "small", "--author", "A")
    (out / "torn").mkdir()
    (out / "torn" / "results.json").write_text('{"name": "torn", "resu')
    groups = json.loads(golf("board", out, handed_in, tmp_path, out / "small" / "1", "--json").stdout)
    (ours,), (torn,) = (group["rows"] for group in groups)
    assert ours["path"] == str(handed_in / "small" / "submission.json")
    said = [note for note in ours["notes"] if "the same runs lie in" in note]
    assert [note.removeprefix("the same runs lie in ") for note in said] == [
        str(out / "small" / name) for name in ("results.json", "1/result.json")
    ]
    assert torn["path"].endswith("torn/results.json") and "is not JSON" in torn["notes"][-1]


def test_kinds_of_evaluation_stay_apart(three, golf, tmp_path):
    values = json.loads((three / "results.json").read_text())
    for result in values["results"]:
        result["eval_kind"] = "rolling"
    (tmp_path / "rolling").mkdir()
    (tmp_path / "rolling" / "results.json").write_text(json.dumps(values))
    shutil.copytree(three, tmp_path / "sliding")
    groups = json.loads(golf("board", tmp_path, "--json").stdout)
    assert [(group["eval_kind"], len(group["rows"])) for group in groups] == [("rolling", 1), ("sliding", 1)]
    with pytest.raises(DataError, match="two kinds of score"):
        golf("submit", three, "-o", tmp_path / "x", "--author", "A", "--parent", tmp_path / "rolling")


SHAPES = {
    "plain": '{"name": "a", "author": "x", "date": "2026-01-02", "val_bpb": 1.2, "bytes_total": 15000000}',
    "no_std": '{"name": "b", "val_bpb": 1.19, "seeds": [1, 2]}',
    "code_bytes": '{"name": "c", "val_bpb": 1.18, "bytes_total": 15999999, "code_bytes": 50000}',
    "one_seed": '{"name": "d", "val_bpb": 1.17, "seeds": {"42": 1.17}}',
    "many_seeds": '{"name": "e", "val_bpb": 1.16, "seeds": {"1": 1.15, "2": 1.17}}',
    "timestamp": '{"name": "f", "val_bpb": 1.15, "date": "2026-02-03T04:05:06Z"}',
    "null": '{"name": null, "val_bpb": null, "bytes_total": null, "track": null}',
    "text": '{"name": "h", "val_bpb": "1.14", "bytes_total": "15 MB"}',
    "nan": '{"name": "i", "val_bpb": NaN}',
    "markup": '{"name": "<b>j</b> [bold]", "author": "[/]", "val_bpb": 1.13}',
    "list": "[1, 2]",
    "torn": '{"name": "l", "val_bpb": 1.1',
    "bytes": b"\xff\xfe\x00",
}


def test_odd_ones_hide_no_others(chrome, golf, tmp_path):
    """What cannot be read is a row that says so; what is not stated is not there."""
    for name, text in SHAPES.items():
        (tmp_path / "all" / name).mkdir(parents=True)
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "all" / name / "submission.json").write_bytes(data)
    (group,) = json.loads(golf("board", tmp_path / "all", "--json", "--html", tmp_path / "b.html").stdout)
    rows = {row["path"].split("/")[-2]: row for row in group["rows"]}
    assert set(rows) == set(SHAPES)
    scored = {name: row["val_bpb"] for name, row in rows.items() if row["val_bpb"] is not None}
    assert scored == {"plain": 1.2, "no_std": 1.19, "code_bytes": 1.18, "one_seed": 1.17, "many_seeds": 1.16,
                      "timestamp": 1.15, "markup": 1.13}  # fmt: skip
    for name in ("list", "torn", "bytes", "nan", "text", "null"):
        assert rows[name]["notes"], name
    assert "[bold]" in golf("board", tmp_path / "all").stdout
    check_page(chrome, tmp_path / "b.html", 400)
    assert "<b>j</b>" in chrome.ask("document.body.innerText")


def test_nothing_to_show_is_said(tmp_path, golf):
    for path, match in ((tmp_path, "no record"), (tmp_path / "none", "does not exist")):
        with pytest.raises(DataError, match=match):
            golf("board", path)


@pytest.fixture(scope="module")
def page(shared, golf, tmp_path_factory):
    file = tmp_path_factory.mktemp("board") / "board.html"
    golf("board", shared / "oracles" / "published", "--match", "merged", "--html", file)
    return file


@pytest.fixture(scope="module")
def chrome():
    pytest.importorskip("matplotlib")
    browser = Chrome()
    yield browser
    browser.close()


@pytest.mark.parametrize("width, dark", [(400, False), (400, True), (1000, False), (1400, False), (1400, True)])
def test_the_page_in_a_browser(chrome, page, width, dark):
    check_page(chrome, page, width, dark=dark)
    assert chrome.ask("document.querySelectorAll('figure svg').length") >= 4
    colors = chrome.ask("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert colors[0] != colors[1]


ROWS = "[...document.querySelectorAll('#t1 tbody tr')].filter((row) => !row.hidden)"


def test_sorting(chrome, page):
    chrome.open(page, 1400)
    column = [column.key for column in board_page.COLUMNS].index("bytes_total")
    shown = f"{ROWS}.map((row) => row.cells[{column}].dataset.value)"
    press = f"document.querySelectorAll('#t1 th button')[{column}].click()"
    chrome.ask(press)
    up = chrome.ask(shown)
    stated = [int(value) for value in up if value]
    assert stated == sorted(stated) and len(set(stated)) > 5
    assert up == [str(value) for value in stated] + [""] * (len(up) - len(stated))  # what is not stated comes last
    chrome.ask(press)
    assert chrome.ask(shown) == [str(value) for value in reversed(stated)] + [""] * (len(up) - len(stated))
    assert chrome.ask(f"document.querySelectorAll('#t1 th')[{column}].getAttribute('aria-sort')") == "descending"
    assert chrome.troubles == []


def test_filtering(chrome, page):
    chrome.open(page, 1400)
    everything = chrome.ask(f"{ROWS}.length")
    typed = "box.value = 'muon smear'; box.dispatchEvent(new Event('input'));"
    chrome.ask(f"{{ const box = document.querySelector('#t1').closest('section').querySelector('input'); {typed} }}")
    names = chrome.ask(f"{ROWS}.map((row) => row.textContent.toLowerCase())")
    assert 0 < len(names) < everything and all("muon" in name and "smear" in name for name in names)
    assert chrome.ask("document.querySelector('#t1-count').textContent") == f"{len(names)} of {everything}"
    chrome.open(page, 1400)
    chrome.ask("document.querySelector('input[value=front]').click()")
    front = chrome.ask(f"{ROWS}.map((row) => row.textContent)")
    assert 0 < len(front) < everything and all("Pareto front" in text for text in front)


def test_a_point_leads_to_its_row(chrome, page):
    chrome.open(page, 1400)
    found = "[...document.querySelectorAll('svg a')].every((a) => document.querySelector(a.getAttribute('href')))"
    assert chrome.ask(found)
    assert chrome.ask("document.querySelectorAll('svg a').length") > 20
