"""What `golf verify` knows of vocabularies: either kind of tokenizer, of any size, beside golf's count of its bytes."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from byte_level import END, lifted, save, trained

from golf.contracts import quiet
from golf.data import shards, tokenizer_json
from golf.data.speaking import speaker
from golf.data.tokenizer import train
from golf.eval.validity import accounting
from golf.eval.validity.verdict import Status
from golf.publish.verify import suite as verify
from golf.publish.verify.vocabulary import pieces

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hf")
TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "golf" / "data").glob("[a-z]*.py"))]
ROLES = {"bos_token": END, "eos_token": None}


def sentencepiece(folder):
    (folder / "tokenizer.model").write_bytes(train(TEXTS, 400))
    return folder / "tokenizer.model"


def bytes_and_tokens(folder):
    made = trained(TEXTS, 450)
    made.add_tokens(["<tool>", "été", "  "])
    return save(folder, made, **ROLES)


def a_space_before(folder):
    return save(folder, trained(TEXTS, 450, add_prefix_space=True), **ROLES)


def more_rows_than_tokens(folder):
    kept = tokenizer_json.read(save(folder, trained(TEXTS, 450), **ROLES))
    (folder / "tokenizer.model").write_bytes(tokenizer_json.widened(kept, 460))
    return folder / "tokenizer.model"


def beyond_16_bits(folder):
    return save(folder, lifted(trained(TEXTS, 450), 65_700), **ROLES)


def markers_for_spaces(folder):
    """As Llama 2's: a marker before the text and for each space, and pieces for bytes."""
    alphabet = sorted({char for text in TEXTS for char in text if char.isascii()} - {" "})
    names = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *alphabet, "▁t", "▁te", "▁▁"]
    merges = [["▁", "t"], ["▁t", "e"], ["▁", "▁"]]
    model = {"type": "BPE", "vocab": {name: token for token, name in enumerate(names)}, "merges": merges,
             "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}  # fmt: skip
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]  # fmt: skip
    special = [{"id": token, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for token, name in enumerate(names[:2])]  # fmt: skip
    made = {"version": "1.0", "added_tokens": special, "normalizer": {"type": "Sequence", "normalizers": steps},
            "decoder": {"type": "Sequence", "decoders": back}, "model": model}  # fmt: skip
    return save(folder, made, bos_token="<s>")


KINDS = [sentencepiece, bytes_and_tokens, a_space_before, more_rows_than_tokens, beyond_16_bits, markers_for_spaces]


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_counts_what_it_spells(kind, tmp_path):
    model = kind(tmp_path)
    speaks = speaker(model)
    table, found = speaks.table(), pieces(model, speaks)
    assert accounting.table(table, found, (), 0).status is Status.PASS
    some = np.flatnonzero(table.bytes_V > 1)[[0, -1]].tolist()
    for token in (*some, speaks.bos):
        wrong = replace(table, bytes_V=table.bytes_V.copy())
        wrong.bytes_V[token] += 1
        verdict = accounting.table(wrong, found, (), 0)
        assert verdict.status is Status.FAIL and verdict.evidence["tokens"] == [token]
    assert (found[speaks.bos].kind, len(found)) == ("control", speaks.vocab)
    first = accounting.first_bytes(found, after_boundary=True)
    for text in ("text of a file", "日本", "é"):
        assert next(byte for byte in first[speaks.encode(text)] if byte < 256) == text.encode()[0]
    assert first[speaks.bos] == 256


PREDICTOR = """
import numpy as np
def open(artifact):
    return []
def observe(state, token):
    return [*state, token]
def distribution(state):
    return np.log(np.full(66_150, 1 / 66_150))
"""


@pytest.mark.parametrize("faults", [(), ("table", "train", "split"), ("weights",)])
def test_a_submission_with_ids_beyond_16_bits(faults, tmp_path):
    """Of somebody else, without running it: each fault fails the check it breaks, and that alone."""
    speaks = speaker(beyond_16_bits(tmp_path))
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    texts = {"val": TEXTS[:3], "train": TEXTS[3:] + TEXTS[1:2] * ("train" in faults)}
    streams = {split: np.concatenate([*speaks.encode_documents(each)]) for split, each in texts.items()}
    for split, tokens in streams.items():
        assert tokens.dtype == np.uint32 and tokens.min() >= 65_700
        shards.write(tmp_path / f"{split}_%06d.bin", [tokens])
    (tmp_path / "val.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts["val"]))
    held = streams["val"][200:900] if "weights" in faults else np.random.default_rng(0).random(500)
    np.savez_compressed(tmp_path / "weights.npz", held)
    first = next(speaks.encode_documents(TEXTS[:1]))[1:]
    about = {"entry": "predictor.py", "artifact": "weights.npz", "tokenizer": "tokenizer.json",
             "validation": "val_000000.bin", "documents": "val.jsonl", "train": "train_000000.bin", "track": "open",
             "split": {"documents": 3, "first_sha256": hash_of(first + ("split" in faults))}}  # fmt: skip
    if "table" in faults:
        table = speaks.table()
        table.bytes_V[int(first[0])] += 1
        values = {"bytes": table.bytes_V, "opens": table.opens_V, "boundary": table.boundary_V}
        (tmp_path / "table.json").write_text(json.dumps({name: each.tolist() for name, each in values.items()}))
        about["byte_table"] = "table.json"
    (tmp_path / "verify.json").write_text(json.dumps(about))
    report = verify.verify(verify.open_subject(tmp_path), verify.Tier(name="test", runs=False, scan=60.0), quiet)
    breaks = {"table": {"B1", "B2"}, "train": {"D1"}, "weights": {"D1"}, "split": {"D2"}}
    broken = set().union(*(breaks[fault] for fault in faults))
    found = {each.check: each for each in report.verdicts}
    assert {check for check, each in found.items() if each.status is Status.FAIL} == broken
    for check in {"B1", "B2", "D1", "D2"} - broken:
        assert found[check].status is Status.PASS, found[check]


def hash_of(tokens):
    return hashlib.sha256(tokens.astype("<u4").tobytes()).hexdigest()
