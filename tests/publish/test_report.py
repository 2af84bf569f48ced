"""The report: figures against slow references, the page in a real browser."""

import json
import math

import numpy as np
import pytest
import torch
from chrome import Chrome, check_page
from scipy.stats import spearmanr

from golf.contracts import DataError
from golf.data.tokenizer import Tokenizer
from golf.host import Host
from golf.pack import container
from golf.publish.report import anatomy, probe, tax
from golf.publish.report.examine import examine
from golf.publish.report.probe import Reading
from golf.publish.use.source import open_source
from golf.train import checkpoint

# ---------------------------------------------------------------------------------------------------------- the bytes


@pytest.fixture(scope="module", autouse=True)
def little():
    """Curvature of 512 tokens: what it foretells has a test with as many as it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tax, "CURVED", 512)
        yield


@pytest.fixture(scope="module")
def data(three):
    return (three / "1" / "artifact.golf").read_bytes()


def test_every_byte_has_its_place(data):
    rows = anatomy.streams(data)
    assert sum(row.bytes for row in rows) == len(data)
    qtensors = container.load(data)[1].values()
    assert sum(row.symbols for row in rows) == sum(part.size for q in qtensors for part in q.parts.values())
    assert all(0 < row.bytes < 2 * row.entropy + 64 for row in rows if row.entropy)


def test_tensors_share_the_streams(data, three):
    weights, _ = checkpoint.load_weights(three / "1" / "weights.safetensors")
    rows = anatomy.tensors(data, weights, {})
    assert [row.name for row in rows] == list(container.load(data)[1])
    assert sum(row.bytes for row in rows) == pytest.approx(
        sum(row.bytes for row in anatomy.streams(data)[:-1]), rel=1e-9
    )
    assert all((row.nearest is None) == (row.method == "keep") for row in rows)


def test_plain_rounding_at_as_many_bits():
    """A Gaussian row rounded with a fine step loses step^2 / 12, and its entropy says which step that was."""
    W_RK = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * torch.rand(64, 1).add(0.1)
    bits = 5.0
    step = 2.0 ** (0.5 * math.log2(2 * math.pi * math.e) - bits)  # of a unit Gaussian at high rate
    assert anatomy.rounded_error(W_RK, None, bits) == pytest.approx(step**2 / 12, rel=0.1)
    assert anatomy.rounded_error(W_RK, torch.eye(512), bits) == anatomy.rounded_error(W_RK, None, bits)
    assert anatomy.rounded_error(torch.zeros(4, 8), None, bits) == 0.0


# ----------------------------------------------------------------------------------------------------------- the costs


def test_windows_are_spread_over_the_text():
    rows = tax.windows(np.arange(10_001), 100, 400)
    assert rows.shape == (40, 101) and rows[0, 0] == 0 and rows[-1, -1] == 10_000
    assert (rows[:, 1:] == rows[:, :-1] + 1).all() and (rows[1:, 0] > rows[:-1, -2]).all()
    assert tax.windows(np.arange(30), 100, 400).tolist() == [list(range(30))]  # all there is
    assert tax.windows(np.arange(10_001), 4096, 2**20).shape == (1, 33)  # 32 predictions of a million tokens


def test_what_rounding_costs(three):
    """Against probabilities in double precision, tensor by tensor; curvature ranks them as they are measured."""
    source = open_source(three / "1")
    weights, _ = checkpoint.load_weights(three / "1" / "weights.safetensors")
    rows = torch.randint(0, 400, (6, 33), generator=torch.Generator().manual_seed(0))
    model = source.build()
    model.load_state_dict(weights)
    how = {"bytes_per_token": 2.0, "host": Host(), "sink": lambda event: None}
    found = tax.assess(model, source.weights, [rows[:, :-1]], rows, seconds=600, **how)
    assert set(found.measured) == set(source.weights) and found.tokens == 6 * 32
    assert all(torch.equal(W, weights[name]) for name, W in model.named_parameters())

    def distribution(changed):
        model.load_state_dict(weights | changed)
        with torch.no_grad():
            return model(rows[:, :-1]).double().log_softmax(-1)

    untouched = distribution({})
    scale = 1 / (math.log(2) * 2.0 * found.tokens)
    for name in sorted(found.measured, key=lambda name: -found.measured[name])[:3]:
        other = distribution({name: source.weights[name]})
        slow = (untouched.exp() * (untouched - other)).sum().item() * scale
        assert found.measured[name] == pytest.approx(slow, rel=0.01)
    other = distribution(source.weights)
    targets = rows[:, 1:, None]
    assert found.rise == pytest.approx((untouched - other).gather(-1, targets).sum().item() * scale, rel=0.01)
    model.load_state_dict(weights)
    hurried = tax.assess(model, source.weights, [rows[:, :-1]], rows, seconds=0, **how)
    assert hurried.measured == {} and hurried.together == pytest.approx(found.together)

    draw = torch.Generator().manual_seed(1)
    noisy = {name: W + 0.01 * torch.randn(W.shape, generator=draw) for name, W in weights.items()}
    texts = torch.randint(0, 400, (48, 1, 32), generator=draw)
    costs = tax.assess(model, noisy, texts, rows, seconds=600, **how).costs.values()
    assert spearmanr([cost.predicted for cost in costs], [cost.measured for cost in costs]).statistic > 0.8


# ----------------------------------------------------------------------------------------------------------- the text


@pytest.fixture
def reading():
    """Two whole documents of 5 and 70 tokens and the beginning of a third; bits that tell places apart."""
    tokens = np.array([1, *[5] * 5, 1, *[6] * 70, 1, 7, 7], dtype=np.int64)
    bits = np.arange(len(tokens), dtype=float)
    return Reading(tokens, bits, np.where(tokens == 1, 0, 2), 1)


def test_documents_are_cut_at_their_beginning(reading):
    assert reading.documents == [(1, 6), (7, 77)]
    assert reading.bpb(1, 6) == (1 + 2 + 3 + 4 + 5) / 10


def slow(reading, place_of):
    """Bits per byte in buckets 1, 2-3, 4-7, ... of a function of the place, token by token."""
    sums = {}
    for place in range(1, len(reading.tokens_N)):
        value = place_of(place)
        if value > 0:
            total = sums.setdefault(value.bit_length(), [0.0, 0, 0])
            total[0] += reading.bits_N[place]
            total[1] += reading.bytes_N[place]
            total[2] += 1
    return [(bits / spelled, count) for _, (bits, spelled, count) in sorted(sums.items()) if spelled]


def test_places_in_the_window_and_in_the_document(reading):
    tokens = reading.tokens_N.tolist()
    by_place = slow(reading, lambda place: (place - 1) % 16 + 1)
    assert [(b.bpb, b.tokens) for b in probe.by_place(reading, 16)] == [pytest.approx(b) for b in by_place]
    assert [bucket.label for bucket in probe.by_place(reading, 16)] == ["1", "2–3", "4–7", "8–15", "16"]
    by_age = slow(reading, lambda place: place - max(i for i in range(place + 1) if tokens[i] == 1))
    assert [(b.bpb, b.tokens) for b in probe.by_age(reading)] == [pytest.approx(b) for b in by_age]


def test_documents_by_length(reading):
    found = [(bucket.label, bucket.tokens) for bucket in probe.by_length(reading)]
    assert found == [("4–7", 5), ("64–127", 70)]


def test_the_pieces_spell_the_text(three):
    speaker = Tokenizer(three / "1" / "tokenizer.model")
    text = "the model packs its weights, naïve 文字 and\n\n  tabs."
    tokens = np.concatenate([[1], speaker.encode(text)]).astype(np.int64)
    bits = np.arange(len(tokens), dtype=float)
    pieces = probe.pieces(Reading(tokens, bits, np.ones(len(tokens)), 1), speaker, 1, len(tokens))
    assert "".join(piece.text for piece in pieces) == text
    assert sum(piece.bits for piece in pieces) == pytest.approx(bits[1:].sum())
    assert "\ufffd" not in "".join(piece.text for piece in pieces)


# ----------------------------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(three, golf, tmp_path_factory):
    pytest.importorskip("matplotlib")
    file = tmp_path_factory.mktemp("report") / "report.html"
    golf("report", three / "1", "-o", file, "--costs", 5)
    return file


def test_the_scores_are_the_runs(three, golf, tmp_path):
    """Read over the whole text, as the run was scored, it is the run's score."""
    pytest.importorskip("matplotlib")
    (values,) = json.loads(golf("report", three / "2", "-o", tmp_path / "r.html", "--costs", 0, "--json").stdout)
    found = examine(three / "2", 10**9, 0, lambda event: None)
    assert found.bpb == pytest.approx(values["result"]["val_bpb"], rel=1e-6)
    assert values["gaps"] == [] and found.calibrated > 0
    weighted = [row for row in values["tensors"] if row["weighted"] and row["role"] == "matrix"]
    gains = [row["nearest"] / row["error"] for row in weighted if row["nearest"]]
    assert np.median(gains) > 1.0


def test_without_the_corpus_the_page_says_so(three, golf, tmp_path, monkeypatch):
    monkeypatch.setenv("GOLF_CACHE", str(tmp_path / "empty"))
    golf("report", three / "1", "-o", tmp_path / "r.html", "--costs", 0)
    text = (tmp_path / "r.html").read_text()
    assert "Not measured" in text and "is not on this machine" in text and "Hardest passages" not in text


def test_without_the_artifact_the_rest_is_shown(three, golf, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "1").mkdir()
    for name in ("result.json", "events.jsonl"):
        (tmp_path / "1" / name).write_bytes((three / "1" / name).read_bytes())
    golf("report", tmp_path / "1", "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "no longer holds artifact.golf" in text and "Training loss" in text and "Every tensor" not in text


def test_a_run_that_was_killed(three, golf, tmp_path, chrome):
    rows = (three / "1" / "events.jsonl").read_text().splitlines(keepends=True)
    last = next(place for place, row in enumerate(rows) if '"step": 6' in row)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "events.jsonl").write_text("".join(rows[: last + 1]) + '{"event": "st')
    (values,) = json.loads(golf("report", tmp_path / "1", "-o", tmp_path / "r.html", "--costs", 0, "--json").stdout)
    assert values["unfinished"] == "Step 6 is the last in its log, 75 % of training."
    assert [step["step"] for step in values["steps"]] == [1, 2, 4, 6]
    check_page(chrome, tmp_path / "r.html", 400)
    assert chrome.ask("document.querySelectorAll('figure svg').length") == 4


def test_one_seed_or_two_runs(three, golf, tmp_path):
    with pytest.raises(DataError, match="3 seeds; a report is of one"):
        golf("report", three, "-o", tmp_path / "r.html")
    with pytest.raises(DataError, match="compares two, got 3"):
        golf("report", *[three / seed for seed in "123"], "-o", tmp_path / "r.html")


@pytest.fixture(scope="module")
def chrome():
    browser = Chrome()
    yield browser
    browser.close()


@pytest.mark.parametrize(("width", "dark"), [(400, True), (400, False), (1400, True), (1400, False)])
def test_the_page_in_a_browser(chrome, page, width, dark):
    check_page(chrome, page, width, dark=dark)
    assert chrome.ask("document.querySelectorAll('figure svg').length") == 10
    headings = chrome.ask("[...document.querySelectorAll('h2')].map((h) => h.textContent)")
    assert headings == [
        "Training", "The ledger", "Where the bytes went", "Every tensor", "What is hard to predict",
        "Samples", "Numbers, versions and hashes", "Recipe",
    ]  # fmt: skip
    small = "[...document.querySelectorAll('svg text')].filter((t) => t.getBoundingClientRect().height < 7).length"
    assert chrome.ask(small) == 0
    chrome.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert chrome.ask("document.documentElement.scrollWidth") <= width


def test_surprise_is_more_than_a_color(chrome, page):
    chrome.open(page, 1400)
    styles = "['s1', 's2', 's3', 's4'].map((name) => document.querySelector('.legend .' + name))"
    widths = chrome.ask(f"{styles}.map((e) => getComputedStyle(e).borderBottomWidth)")
    assert widths == ["1px", "2px", "3px", "5px"]
    assert chrome.ask("[...document.querySelectorAll('.passage span')].every((e) => / bits$/.test(e.title))")


def test_two_runs_compared(chrome, three, changed, golf, tmp_path):
    golf("report", three / "1", changed / "1", "-o", tmp_path / "two.html", "--costs", 1)
    for width in (400, 1400):
        check_page(chrome, tmp_path / "two.html", width)
    text = chrome.ask("document.body.innerText")
    assert "What changed" in text and "train.matrix.lr" in text
    assert chrome.ask("document.querySelector('h1').textContent") == "baseline seed 1 against faster seed 1"
