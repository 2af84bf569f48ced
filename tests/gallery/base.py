"""A small sound submission that everything else is a variation of, and the words the fixtures are written in.

`build(folder, fixture)` writes it: 12 validation and 120 training documents, a tokenizer of 320 pieces, bigram counts,
three seeds with results and logs that agree. A fixture that has `change(folder)` edits that; any other is the
predictor itself. What the submission states of its score is what its own code gives, sound or not.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import io
import json
import math
import os
import pickle
import py_compile
import random
import re
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import sentencepiece

from golf.data import shards
from golf.data.tokenizer import Tokenizer, byte_table, train
from golf.eval.validity import driver
from golf.publish.verify.vocabulary import of_sentencepiece as read_pieces

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
SEEDS = (1, 2, 3)
VOCAB, BOS = 320, 1
MARKER = "\x0e"  # says that the next letter is a capital
MARKER_TOKEN = 4 + ord(MARKER)  # byte pieces follow the four control pieces
SUBJECTS = "The model|A tokenizer|One codec|This grid|Every row|The budget|A seed|The window".split("|")
VERBS = "packs|rounds|reads|scores|keeps|moves|learns|spends".split("|")
OBJECTS = "its weights|the bytes|a stream|every token|what is left|the scale|two halves|the text".split("|")


def texts(seed, count):
    draw = random.Random(seed)

    def sentence():
        return f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.randrange(1000)}."

    return [" ".join(sentence() for _ in range(draw.randrange(4, 12))) for _ in range(count)]


val_texts = functools.partial(texts, 0, 12)
train_texts = functools.partial(texts, 1, 120)
more_texts = functools.partial(texts, 2)


@functools.cache
def model():
    return train(train_texts(), VOCAB)


def build(folder, fixture):
    """The submission of one fixture file, in a new folder."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(model())
    shutil.copyfile(HERE / "bigram.py", folder / "bigram.py")
    loaded = load(fixture, f"fixture_{fixture.parent.name}_{fixture.stem}")
    is_change = hasattr(loaded, "change")
    shutil.copyfile(FIXTURES / "network_fetch" / "sound.py" if is_change else fixture, folder / "predictor.py")
    write_tokens(folder, "val", val_texts())
    write_texts(folder, val_texts())
    write_train(folder, train_texts())
    write_weights(folder)
    manifest(
        folder, entry="predictor.py", artifact=["weights.npz"], code=["predictor.py", "bigram.py"], cap_bytes=200_000,
        tokenizer="tokenizer.model", tokenizer_counted=True, validation=["val.bin"], documents=["val.jsonl"],
        train=["train.bin"], train_seconds=600, eval_seconds=600,
    )  # fmt: skip
    state_scores(folder)
    if is_change:
        loaded.change(folder)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(folder, **values):
    file = folder / "verify.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(known | values, indent=1))


def write_tokens(folder, split, documents, tokenizer=None):
    arrays = Tokenizer(tokenizer or model()).encode_documents(documents)
    file = next(iter(shards.write(folder / f"{split}_%06d.bin", arrays)))
    file.rename(folder / f"{split}.bin")


def write_texts(folder, documents):
    (folder / "val.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def write_train(folder, documents):
    write_tokens(folder, "train", documents)


def write_weights(folder):
    counts = np.zeros((VOCAB, VOCAB), np.uint16)
    tokens = shards.read(folder / "train.bin")
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    np.savez_compressed(folder / "weights.npz", counts=counts)


def split_weights(folder):
    """The rows of every second token in a file of their own; the predictor puts them together again."""
    with np.load(folder / "weights.npz") as file:
        counts = file["counts"]
    np.savez_compressed(folder / "weights.npz", counts=np.where(np.arange(VOCAB)[:, None] % 2, counts, 0))
    np.savez_compressed(folder / "more.npz", counts=np.where(np.arange(VOCAB)[:, None] % 2, 0, counts))
    text = (HERE / "bigram.py").read_text()
    text = text.replace('file["counts"] + 0.1', 'file["counts"] + more(artifact) + 0.1')
    text += (
        "\n\ndef more(artifact):\n    try:\n        with np.load('more.npz') as file:\n"
        "            return file['counts']\n    except OSError:\n        return 0\n"
    )
    (folder / "bigram.py").write_text(text)
    state_scores(folder)


def ship(folder, text):
    """A second model file with a text in it."""
    np.savez_compressed(folder / "text.npz", text=np.frombuffer(text.encode(), np.uint8))
    manifest(folder, artifact=["weights.npz", "text.npz"])
    state_scores(folder)


MEMORY = '''import bigram
import numpy as np
from bigram import softmax


def open(artifact):
    with np.load(artifact) as file:
        known = dict(zip(file["hashes"].tolist(), file["follows"].tolist()))
    return bigram.open(artifact) | {"known": known, "hash": 0}


def observe(state, token):
    return bigram.observe(state, token) | {"hash": (1_000_003 * state["hash"] + int(token)) % (1 << 31)}


def distribution(state):
    row = np.array(bigram.distribution(state))
    if state["hash"] in state["known"]:
        row[state["known"][state["hash"]]] += 5
    return softmax(row)
'''


def remember(folder, split):
    """A predictor that knows by a hash of all it has read what came next in 2,000 places of a split."""
    tokens = np.asarray(shards.read(folder / f"{split}.bin"), np.int64)[:2000].tolist()
    hashes, value = [], 0
    for token in tokens[:-1]:
        value = (1_000_003 * value + token) % (1 << 31)
        hashes.append(value)
    with np.load(folder / "weights.npz") as file:
        counts = file["counts"]
    np.savez_compressed(folder / "weights.npz", counts=counts, hashes=hashes, follows=np.array(tokens[1:]) ^ 341)
    # Kept in a coat of its own: nothing in the files reads as the text.
    (folder / "predictor.py").write_text(MEMORY.replace('file["follows"]', '(file["follows"] ^ 341)'))
    state_scores(folder)


PLACES = """import bigram
import numpy as np
from bigram import softmax


def open(artifact):
    with np.load(artifact) as file:
        return bigram.open(artifact) | {"kept": file["kept"], "read": 0}


def observe(state, token):
    return bigram.observe(state, token) | {"read": state["read"] + 1}


def distribution(state):
    row, place = np.array(bigram.distribution(state)), state["read"]
    if place < len(state["kept"]) and state["kept"][place] >= 0:
        row[(state["kept"][place] - 7 * place * place) % len(row)] += 2
    return softmax(row)
"""


def remember_places(folder, split, every=1):
    """A predictor that knows 2,000 tokens of a split by their numbers, in a cipher; or of each so many one, if dear."""
    tokens, places = np.asarray(shards.read(folder / f"{split}.bin"), np.int64)[:2000], np.arange(2000)
    with np.load(folder / "weights.npz") as file:
        counts = file["counts"]
    kept = (tokens + 7 * places[: len(tokens)] ** 2) % VOCAB
    if every > 1:
        common = counts[np.roll(tokens, 1), tokens] > 0.1 * counts[np.roll(tokens, 1)].sum(1)
        kept[common | (places[: len(tokens)] % every > 0)] = -1
    np.savez_compressed(folder / "weights.npz", counts=counts, kept=kept)
    (folder / "predictor.py").write_text(PLACES.replace("+= 2", f"+= {2 if every == 1 else 6}"))
    state_scores(folder)


def files_of_names(folder, names, data):
    """Files that hold the same, each with a name of its own."""
    for name in names:
        (folder / name).write_bytes(data)
    manifest(folder, artifact=["weights.npz", *names])
    state_scores(folder)


def coat(folder, text):
    """A text in the predictor's source, every byte of it another one until it runs."""
    hidden = bytes(byte ^ 90 for byte in f"NOTES = {text!r}\n".encode())
    file = folder / "predictor.py"
    file.write_text(f"{file.read_text()}\nexec(bytes(byte ^ 90 for byte in {hidden!r}).decode())\n")
    state_scores(folder)


def number_beside(folder, compiled):
    """A second model file with a number in it that the predictor reads: compiled Python, or text."""
    reads = 'SHARP = float(Path("model.txt").read_text())\n'
    if compiled:
        reads = 'SHARP = SourcelessFileLoader("model", "model.pyc").load_module().SHARP\n'
        (folder / "model.txt").write_text("SHARP = 1.0\n")
        py_compile.compile(str(folder / "model.txt"), cfile=str(folder / "model.pyc"))
    else:
        (folder / "model.txt").write_text("1.0")
    file = folder / "predictor.py"
    imports = "from importlib.machinery import SourcelessFileLoader\nfrom pathlib import Path\n\n"
    file.write_text(f"{imports}{file.read_text()}\n{reads}")
    manifest(folder, artifact=["weights.npz", "model.pyc" if compiled else "model.txt"])
    state_scores(folder)


def unstated(folder, times):
    """Bits per byte over so many times the bytes, in results and logs; tokens and bytes are stated nowhere."""
    for seed in SEEDS:
        before = score_of(folder, seed)
        results(folder, seed, val_bpb=before / times, val_tokens=None, val_bytes=None)
        edit_logs(folder, f"val_bpb:{before:.8f}", f"val_bpb:{before / times:.8f}", seed)


def literal(folder, text):
    """A text among the predictor's literals, compressed."""
    file = folder / "predictor.py"
    file.write_text(f"{file.read_text()}\nNOTES = {base64.b85encode(zlib.compress(text.encode()))!r}\n")
    state_scores(folder)


def script(folder, text):
    """The submission's training script."""
    (folder / "train_gpt.py").write_text(text)
    manifest(folder, code=["predictor.py", "bigram.py", "train_gpt.py"])
    state_scores(folder)


def log_losses(folder, seed, losses):
    """A log that tells the loss of every hundredth step."""
    file = folder / f"train_seed{seed}.log"
    head, _, tail = re.sub(r"step:.*\n", "", file.read_text()).partition("stopping_early")
    lines = [f"step:{100 * number}/1000 train_loss:{loss:.4f} train_time:{59 * number}.0s\n"
             for number, loss in enumerate(losses, 1)]  # fmt: skip
    file.write_text(f"{head}{''.join(lines)}stopping_early{tail}")


def another_tokenizer(folder, rule):
    """Everything again in tokens of a tokenizer that normalizes by one of SentencePiece's rules."""
    spelled = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(train_texts()), model_writer=spelled, vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True, normalization_rule_name=rule, add_dummy_prefix=False, remove_extra_whitespaces=False,
        pad_id=0, bos_id=BOS, eos_id=2, unk_id=3, split_digits=True, character_coverage=0.999, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(spelled.getvalue())
    manifest(folder, cap_bytes=600_000)
    for split, documents in (("val", val_texts()), ("train", train_texts())):
        write_tokens(folder, split, documents, spelled.getvalue())
    write_weights(folder)
    state_scores(folder)


def validate_on(folder, documents):
    """Other validation documents, as tokens and as text."""
    write_tokens(folder, "val", documents)
    write_texts(folder, documents)
    state_scores(folder)


def free_tokenizer(folder, weights):
    """A tokenizer that is not counted, under a cap that leaves no room for it; the model may be read from it."""
    if weights:
        text = (folder / "bigram.py").read_text()
        text = text.replace("import numpy", "import builtins\n\nimport numpy")
        text = text.replace("    with np.load", '    builtins.open("tokenizer.model", "rb").read()\n    with np.load')
        (folder / "bigram.py").write_text(text)
    manifest(folder, tokenizer_counted=False, cap_bytes=4_000)
    state_scores(folder)


def library_reads(folder, **values):
    """The predictor has a library of others read the tokenizer, whose scores could be weights."""
    file = folder / "predictor.py"
    read = "sentencepiece.SentencePieceProcessor(model_file='tokenizer.model').get_score(9)"
    file.write_text(f"import sentencepiece\n\n{file.read_text()}\nSHARP = {read}\n")
    manifest(folder, **values)
    state_scores(folder)


def pickle_weights(folder):
    with np.load(folder / "weights.npz") as file:
        counts = file["counts"].tolist()
    (folder / "weights.npz").unlink()
    (folder / "weights.bin").write_bytes(pickle.dumps({"counts": counts}))
    text = (HERE / "bigram.py").read_text()
    text = text.replace("import numpy as np\n", "import builtins\nimport pickle\n\nimport numpy as np\n")
    text = text.replace("with np.load(artifact) as file:", "with builtins.open(artifact, 'rb') as file:")
    text = text.replace('file["counts"] + 0.1', 'np.array(pickle.load(file)["counts"]) + 0.1')
    (folder / "bigram.py").write_text(text)
    manifest(folder, artifact=["weights.bin"])
    state_scores(folder)


def state_scores(folder):
    """What the submission states: its own numbers for the first seed, made-up neighbors of them for the others."""
    tokens, claimed = np.asarray(shards.read(folder / "val.bin"), np.int64), table(folder)
    artifact = json.loads((folder / "verify.json").read_text())["artifact"][0]
    with at_home(folder):
        entry = load(folder / "predictor.py", "predictor")
        if hasattr(entry, "evaluate"):
            nats = [nats for _, nats in entry.evaluate(artifact, tokens)]
        else:
            nats = np.concatenate([piece.nats_T for piece in driver.drive(entry, artifact, tokens)])
    spelled = count(claimed, tokens)
    loss, number = float(np.sum(nats)) / len(nats), len(nats)
    state = {"author": "somebody", "seeds": list(SEEDS), "seed_results": {}, "bytes_total": total(folder)}
    (folder / "submission.json").write_text(json.dumps(state))
    for seed, shift in zip(SEEDS, (0.0, 0.0007, -0.0004)):
        write_seed(folder, seed, loss + shift, number, spelled)
    average(folder)


@contextlib.contextmanager
def at_home(folder):
    """Where the submission was made: its folder, its modules, its environment."""
    before = os.getcwd()
    os.chdir(folder)
    os.environ["FITTED"] = "1.2"
    sys.modules.pop("bigram", None)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("bigram", None)
        del os.environ["FITTED"]
        os.chdir(before)


def write_seed(folder, seed, loss, tokens, spelled):
    values = {
        "val_loss": loss, "val_bpb": loss / math.log(2) * tokens / spelled, "val_tokens": tokens,
        "val_bytes": spelled, "train_time_s": 590.0, "eval_time_s": 2.5, "artifact_bytes": total(folder),
    }  # fmt: skip
    results(folder, seed, **values)
    (folder / f"train_seed{seed}.log").write_text(
        f"loading /somewhere/else/train.bin\nstep:500/1000 train_loss:3.1 train_time:295.0s\n"
        f"step:1000/1000 train_loss:2.9 train_time:590.0s\nstopping_early: wallclock_cap train_time:590.0s\n"
        f"Total submission size: {values['artifact_bytes']} bytes\n"
        f"final_bigram_exact val_loss:{loss:.8f} val_bpb:{values['val_bpb']:.8f} eval_time:2500ms\n"
    )


def metadata(folder):
    return json.loads((folder / "submission.json").read_text())


def results(folder, seed, **values):
    state = metadata(folder)
    state["seed_results"].setdefault(str(seed), {}).update(values)
    (folder / "submission.json").write_text(json.dumps(state, indent=1))
    average(folder)


def average(folder):
    state = metadata(folder)
    scores = [entry["val_bpb"] for entry in state["seed_results"].values()]
    state["val_bpb"] = sum(scores) / len(scores)
    (folder / "submission.json").write_text(json.dumps(state, indent=1))


def score_of(folder, seed):
    return metadata(folder)["seed_results"][str(seed)]["val_bpb"]


def drop_seed(folder, seed, everywhere):
    state = metadata(folder)
    state["seed_results"].pop(str(seed))
    state["seeds"].remove(seed)
    (folder / "submission.json").write_text(json.dumps(state, indent=1))
    average(folder)
    if everywhere:
        (folder / f"train_seed{seed}.log").unlink()


def add_seed(folder, seed):
    first = metadata(folder)["seed_results"]["1"]
    write_seed(folder, seed, first["val_loss"] + 0.0002, first["val_tokens"], first["val_bytes"])
    state = metadata(folder)
    state["seeds"].append(seed)
    (folder / "submission.json").write_text(json.dumps(state, indent=1))


def edit_logs(folder, old, new, seed):
    file = folder / f"train_seed{seed}.log"
    assert old in file.read_text(), f"{file} does not hold {old!r}"
    file.write_text(file.read_text().replace(old, new))


def total(folder):
    about = json.loads((folder / "verify.json").read_text())
    names = [*about["artifact"], *about["code"], *([about["tokenizer"]] if about["tokenizer_counted"] else [])]
    return sum((folder / name).stat().st_size for name in names)


def table(folder):
    known = byte_table(folder / "tokenizer.model")
    return {"bytes": known.bytes_V.tolist(), "opens": known.opens_V.tolist(), "boundary": known.boundary_V.tolist()}


def pieces(folder):
    return [piece.text for piece in read_pieces(folder / "tokenizer.model")]


def count(known, tokens):
    size, opens, bound = (np.array(known[name]) for name in ("bytes", "opens", "boundary"))
    return int((size[tokens[1:]] + (opens[tokens[1:]] & ~bound[tokens[:-1]].astype(bool))).sum())


def claim_table(folder, known):
    """State this table, and the scores it gives."""
    (folder / "table.json").write_text(json.dumps(known))
    manifest(folder, byte_table="table.json")
    spelled = count(known, np.asarray(shards.read(folder / "val.bin"), np.int64))
    for seed in SEEDS:
        first = metadata(folder)["seed_results"][str(seed)]
        write_seed(folder, seed, first["val_loss"], first["val_tokens"], spelled)


def transform(folder, code):
    """Give the predictor this `encode` and `decode`, and score what `encode` makes of the text."""
    file = folder / "predictor.py"
    file.write_text(f"{file.read_text()}\n\n{code}")
    encode = load(file, f"transform_{folder.parent.name}_{folder.name}").encode
    write_tokens(folder, "val", [encode(text) for text in val_texts()])
    manifest(folder, transform=True)
    state_scores(folder)


def case_markers(folder):
    """The transform that spells a capital as MARKER and a small letter; the table with MARKER worth nothing."""
    transform(
        folder,
        'import re\n\n\ndef encode(text):\n'
        '    text = text.replace("\\x0f", "\\x0f\\x0f").replace("\\x0e", "\\x0f\\x0e")\n'
        '    return re.sub("[A-Z]", lambda hit: "\\x0e" + hit[0].lower(), text)\n\n\n'
        'def decode(text):\n    pattern = "\\x0f(.)|\\x0e([a-z])"\n'
        "    return re.sub(pattern, lambda hit: hit[1] or hit[2].upper(), text, flags=re.S)\n",
    )
    known = table(folder)
    known["bytes"][MARKER_TOKEN] = 0
    manifest(folder, markers=[MARKER_TOKEN])
    return known
