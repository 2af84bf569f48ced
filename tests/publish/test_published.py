"""Metadata as published: every shape that occurs is read, nothing is invented, what is odd is said."""

import json
import statistics

import pytest

from golf.contracts import DataError
from golf.publish.board import published


def entry(tmp_path, values, name="2026-04-05_Thing"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "submission.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return published.read(folder / "submission.json")


PLAIN = {"author": "A", "github_id": "a", "name": "N", "date": "2026-04-05", "val_bpb": 1.1}
SCORES = {"1": 1.10, "2": 1.12, "3": 1.11}


@pytest.mark.parametrize(
    "shape",
    [
        {"seed_results": {seed: {"val_bpb": score} for seed, score in SCORES.items()}},
        {"seed_results": [{"seed": int(seed), "val_bpb": score} for seed, score in SCORES.items()]},
        {"seeds": {seed: {"val_bpb": score} for seed, score in SCORES.items()}},
        {"seeds": SCORES},
        {"seeds": [1, 2, 3], "seed_scores": list(SCORES.values())},
        {"seeds": ["1", "2", "3"], "val_bpb_per_seed": SCORES},
        {"val_bpb_by_seed": SCORES},
        {f"seed_{seed}": {"val_bpb": 9.0, "val_bpb_exact": score} for seed, score in SCORES.items()},
    ],
    ids=lambda shape: "+".join(shape)[:40],
)
def test_every_shape_of_seeds_says_the_same(tmp_path, shape):
    found = entry(tmp_path, PLAIN | {"val_bpb": 1.11} | shape)
    assert dict(found.seeds) == SCORES
    assert found.val_bpb_std == pytest.approx(0.01) and found.std_kind == "from seeds"
    assert not found.missing and not [note for note in found.notes if "seed" in note]


@pytest.mark.parametrize("shape", [{}, {"seeds": [7]}, {"seeds": [], "seed_results": {}}, {"seed": 1337}])
def test_without_scores_by_seed_there_is_no_spread(tmp_path, shape):
    found = entry(tmp_path, PLAIN | shape)
    assert (found.val_bpb_std, found.std_kind, dict(found.seeds)) == (None, None, {})


def test_one_seed_has_no_spread(tmp_path):
    found = entry(tmp_path, PLAIN | {"seeds": [7], "seed_results": {"7": {"val_bpb": 1.1}}})
    assert found.val_bpb_std is None and dict(found.seeds) == {"7": 1.1}


def test_the_kind_of_deviation_is_recognized(tmp_path):
    seeds = {"seed_results": {seed: {"val_bpb": score} for seed, score in SCORES.items()}, "val_bpb": 1.11}
    population = statistics.pstdev(SCORES.values())
    for place, (std, kind) in enumerate(((0.01, "sample"), (population, "population"), (0.5, "stated"))):
        found = entry(tmp_path, PLAIN | seeds | {"val_bpb_std": std}, f"2026-04-05_{place}")
        assert (found.val_bpb_std, found.std_kind) == (std, kind)
    assert any("its seeds give" in note for note in found.notes)


@pytest.mark.parametrize("stated, said", [(1.11, False), (1.11004, False), (1.1101, True), (None, False)])
def test_a_score_that_is_not_its_seeds_mean_is_said(tmp_path, stated, said):
    """Half a unit in the fourth digit is rounding; a score that is not stated is not made up from its seeds."""
    found = entry(tmp_path, PLAIN | {"val_bpb": stated, "seeds": SCORES})
    assert found.val_bpb == stated
    assert any("is not the mean of its seeds, 1.11" in note for note in found.notes) == said


def test_renamed_fields_are_found_and_named(tmp_path):
    values = {"title": "T", "code_bytes": 50_000, "mean_val_bpb": 1.2, "std_val_bpb": 0.1, "total_bytes": 15_000_000}
    found = entry(tmp_path, values)
    assert (found.name, found.bytes_code, found.val_bpb, found.bytes_total) == ("T", 50_000, 1.2, 15_000_000)
    assert "bytes_code: spelled code_bytes" in found.notes
    assert found.missing == ("author", "github_id")  # the date is in the folder's name


def test_bytes_of_an_artifact_are_not_taken_for_the_total(tmp_path):
    found = entry(tmp_path, PLAIN | {"artifact_bytes": 15_000_000})
    assert (found.bytes_total, found.bytes_artifact) == (None, 15_000_000)


@pytest.mark.parametrize("date", ["2026-03-19", "2026-03-19T10:00:00Z", "2026-03-19T10:00:00+02:00"])
def test_iso_dates(tmp_path, date):
    assert entry(tmp_path, PLAIN | {"date": date}).date == "2026-03-19"


def test_a_date_that_is_none_falls_back_to_the_folder(tmp_path):
    found = entry(tmp_path, PLAIN | {"date": "last Tuesday"})
    assert found.date == "2026-04-05" and any("not an ISO date" in note for note in found.notes)
    assert entry(tmp_path, PLAIN | {"date": None}, "2026-02-30_no").date is None


@pytest.mark.parametrize("bad", [None, "1.1", True, [1.1], {"mean": 1.1}, 0, 0.0, -1.0])
def test_a_score_of_another_type_is_no_score(tmp_path, bad):
    found = entry(tmp_path, PLAIN | {"val_bpb": bad})
    assert found.val_bpb is None and found.missing == ("val_bpb",)


def test_not_a_number_is_no_score(tmp_path):
    assert entry(tmp_path, '{"val_bpb": NaN, "bytes_total": Infinity}').val_bpb is None


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '"text"'])
def test_what_is_no_object_is_refused(tmp_path, text):
    with pytest.raises(DataError, match="JSON"):
        entry(tmp_path, text)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither"):
        published.find(tmp_path)


@pytest.mark.parametrize(
    ("track", "read"),
    [("track_10min_16mb", "10min_16mb"), ("10min-16mb", "10min_16mb"), ("non-record-16mb", "non_record_16mb")],
)
def test_tracks_have_one_spelling(tmp_path, track, read):
    assert entry(tmp_path, PLAIN | {"track": track}).track == read


def test_all_published_metadata_is_read_as_it_is(shared):
    """Values are those of the file, digit for digit, or None with a note; numbers are never strings."""
    files = published.find(shared / "oracles" / "published")
    assert len(files) > 100
    for file in files:
        found, raw = published.read(file), json.loads(file.read_bytes())
        for name, spellings in published.SYNONYMS.items():
            value = getattr(found, name)
            if value is None or name in ("track", "date"):
                continue
            sources = [raw[spelling] for spelling in spellings if spelling in raw]
            largest = any(note == "bytes_total: the largest of the seeds" for note in found.notes)
            computed = (name == "val_bpb_std" and found.std_kind == "from seeds") or (
                name == "bytes_total" and largest
            )
            assert computed or value in sources or value in [str(source).strip() for source in sources], (file, name)
        for name in found.missing:
            assert any(note.startswith(f"{name}: ") or f"usable as {name}" in note for note in found.notes)
        texts = json.dumps(raw)
        assert all(json.dumps(score) in texts or f"{score:g}" in texts for score in found.seeds.values())
