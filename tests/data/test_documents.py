import json

import pytest
import zstandard

from golf.contracts import DataError
from golf.data import documents

TEXTS = ["one", "two\nlines\u2028and more", "", "trailing spaces  ", "\U0001f600"]


def jsonl(texts):
    return "".join(json.dumps({"text": text, "id": 7}) + "\n" for text in texts).encode()


def test_all_formats_give_the_same_texts(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS) + b"\n")
    frames = [zstandard.compress(jsonl(TEXTS[:2])), zstandard.compress(jsonl(TEXTS[2:]))]
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / "c.txt").write_bytes(b"a\r\nb\n")
    assert list(documents.read(tmp_path / "a.jsonl")) == TEXTS
    assert list(documents.read(tmp_path / "b.jsonl.zst")) == TEXTS
    assert list(documents.read_all([tmp_path / "c.txt", tmp_path / "a.jsonl"])) == ["a\r\nb\n", *TEXTS]


def test_documents_arrive_one_by_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["first"]) + b"not json\n")
    reading = documents.read(path)
    assert next(reading) == "first"
    with pytest.raises(DataError, match=r"a\.jsonl line 2 is not JSON"):
        next(reading)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "cut', "line 2 is not JSON"),
        (b'{"body": "x"}', 'line 2 has no string under "text"'),
        (b'{"text": 5}', 'line 2 has no string under "text"'),
        (b'["text"]', 'line 2 has no string under "text"'),
        (b'{"text": "\xff"}', "line 2 has byte 0xff at offset 10"),
        (b'{"text": "\\ud800"}', "line 2 has half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
def test_malformed_lines_are_named(tmp_path, line, words, suffix):
    data = jsonl(["fine"]) + line + b"\n"
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(zstandard.compress(data) if suffix.endswith("zst") else data)
    with pytest.raises(DataError, match=words) as caught:
        list(documents.read(path))
    assert str(path) in str(caught.value)


def test_malformed_files_are_named(tmp_path):
    # Cut where a block ends, so that what is left decodes to whole lines.
    compressor = zstandard.ZstdCompressor().compressobj()
    whole = compressor.compress(jsonl(["word"])) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    (tmp_path / "cut.jsonl.zst").write_bytes(whole)
    (tmp_path / "no.jsonl.zst").write_bytes(b"plain text")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"cut\.jsonl\.zst ends within a zstd frame"):
        list(documents.read(tmp_path / "cut.jsonl.zst"))
    with pytest.raises(DataError, match=r"no\.jsonl\.zst is no zstd file"):
        list(documents.read(tmp_path / "no.jsonl.zst"))
    with pytest.raises(DataError, match=r"latin\.txt has byte 0xe9 at offset 3"):
        list(documents.read(tmp_path / "latin.txt"))
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(DataError, match="ends in none of"):
        list(documents.read(tmp_path / "x.csv"))
    for path, why in ((tmp_path / "x.txt", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=why):
            list(documents.read(path))
    (tmp_path / "x.txt").write_text(" \n")
    with pytest.raises(DataError, match="no text in there"):
        list(documents.read_all([tmp_path / "x.txt"]))
