"""What the pages say is true: their code runs, their commands parse, their links lead somewhere."""

import re
import shlex
import sys
import types
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from small_record import write_record

from golf import recipe as recipes
from golf import run as corridor
from golf.arch import families
from golf.cli import cli
from golf.contracts import Stream, quiet
from golf.eval import kinds
from golf.eval.sliding import SlidingWindow
from golf.host import Host
from golf.pack import codecs, container
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.publish.use.source import open_source
from golf.quant import apply
from golf.quant.nearest import RoundNearest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("records/**/README.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.M | re.S)


def code(page, title=""):
    """The one block of Python of that title on a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    wanted = f'python title="{title}"' if title else "python"
    (found,) = [body for head, body in FENCE.findall(text) if head == wanted]
    return found


@pytest.fixture
def parts(monkeypatch):
    """The four parts of the page, each in a module and a phone book."""
    books = {
        "codec": (codecs.CODECS, "bz2", "Bzip2"),
        "quantizer": (apply.METHODS, "ternary", "Ternary"),
        "architecture": (families.FAMILIES, "pairs", "PairsSpec"),
        "evaluation": (kinds.KINDS, "hedged", "Hedged"),
    }
    found = {}
    for title, (book, name, attribute) in books.items():
        module = types.ModuleType(f"golf_docs_{title}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code("parts.md", title), f"docs/parts.md, {title}", "exec"), module.__dict__)
        monkeypatch.setitem(book, name, f"{module.__name__}:{attribute}")
        found[title] = getattr(module, attribute)
    return found


def test_a_recipe_of_new_parts_runs(parts, tmp_path):
    """Trained, quantized, packed, read back and scored; ternary matrices take under two bits."""
    recipe = recipes.load(write_record(tmp_path))
    recipe = replace(
        recipe,
        model=parts["architecture"](vocab=400, dim=32, hidden=64),
        quant=replace(recipe.quant, matrix=parts["quantizer"]()),
        pack=PackSpec(codec=parts["codec"]()),
        eval=parts["evaluation"](window=32, stride=16),
    )
    recipe = recipes.assign(recipe, ["train.steps=30", "train.matrix.lr=0.02"])
    job = corridor.Job(seed=1, out=tmp_path / "out", code=b"", host=Host(), sink=quiet)
    result = corridor.run(recipe, job)
    assert result.eval_kind == "hedged" and result.val_bpb < 3.5
    _, qtensors = container.load((tmp_path / "out" / "artifact.golf").read_bytes())
    assert qtensors["mix.weight"].method == "ternary"
    assert set(np.unique(qtensors["mix.weight"].parts["codes"])) == {-1, 0, 1}
    assert type(open_source(tmp_path / "out").build()).__name__ == "Pairs"


def test_the_codec_of_the_page(parts):
    codec, symbols = parts["codec"](), np.random.default_rng(0).integers(-3, 4, 5000).astype(np.int8)
    data = codec.encode(Stream(symbols, 7))
    assert (codec.decode(data, 5000, symbols.dtype, 7, 0) == symbols).all()
    for broken in (data[:-1], b"", b"x" + data, data + b"x"):
        with pytest.raises(codecs.ArtifactError):
            codec.decode(broken, 5000, symbols.dtype, 7, 0)


def test_the_quantizer_of_the_page(parts):
    method, W = parts["quantizer"](), torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    stored = method.quantize({"w": W}, {}, 1.0)["w"]
    assert torch.equal(method.dequantize(stored), method.as_exported(W))


def test_the_architecture_of_the_page(parts):
    model = parts["architecture"](vocab=50).build().eval()
    ids = torch.arange(20).view(2, 10)
    assert torch.equal(model(ids, tail=3), model(ids)[:, -3:])
    changed = ids.clone()
    changed[:, 6:] += 1
    assert torch.equal(model(changed)[:, :6], model(ids)[:, :6])  # nothing looks ahead
    assert set(model.roles()) == {name for name, _ in model.named_parameters()}


def test_the_evaluation_of_the_page(parts):
    """Without a hedge it is the sliding window's score; with one, the probabilities still sum to one."""
    model, Table = parts["architecture"](vocab=50).build().eval(), __import__("golf.contracts").contracts.ByteTable
    table = Table(np.ones(50, np.int64), np.zeros(50, bool), np.zeros(50, bool))
    tokens = np.random.default_rng(0).integers(0, 50, 300)
    ours = parts["evaluation"](window=16, stride=4, hedge=1e-300).score(model, tokens, table)
    theirs = SlidingWindow(window=16, stride=4).score(model, tokens, table)
    assert (ours.tokens, ours.bytes) == (theirs.tokens, theirs.bytes)
    assert ours.nats == pytest.approx(theirs.nats, rel=1e-5)
    hedged, logits = parts["evaluation"](hedge=0.3), torch.randn(1, 50)
    mass = sum(float((-hedged._nats(logits, torch.tensor([token]))).exp()) for token in range(50))
    assert mass == pytest.approx(1.0, abs=1e-9)


def test_the_reader_of_the_artifact_page():
    names = {}
    exec(compile(code("artifact.md"), "docs/artifact.md", "exec"), names)
    draw = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(16, 32, generator=draw) for name in ("a", "b")}
    qtensors = RoundNearest(bits=6).quantize(weights, {}, 1.0)
    qtensors |= apply.Keep("float16").quantize({"c": torch.randn(9, generator=draw)}, {}, 1.0)
    qtensors |= RoundNearest(bits=12).quantize({"d": torch.randn(4, 8, generator=draw)}, {}, 1.0)
    read = names["read"](container.dump(qtensors, {"model": {"family": "none"}}, PackSpec(codec=Zstd())))
    assert list(read) == list(qtensors)
    for name, qtensor in qtensors.items():
        assert {part: array.tolist() for part, array in read[name].items()} == {
            part: array.tolist() for part, array in qtensor.parts.items()
        }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_with_their_options(page):
    """Every `golf ...` line of a page, fenced or in backticks, is one the program understands."""
    text = page.read_text(encoding="utf-8")
    fenced = "\n".join(body for head, body in FENCE.findall(text) if not head).replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?golf (\w.*)$", fenced, re.M)
    lines += re.findall(r"`golf ([a-z][^`]*)`", FENCE.sub("", text))
    for line in lines:
        words = shlex.split(line.replace("\\|", "|"), comments=True)
        command = cli
        if "[" in line or "|" in line:  # a synopsis
            assert words[0] in cli.commands, line
            continue
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not cli, f"{page.name}: golf {line}"
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
        assert {word for word in words if word.startswith("-")} <= known, f"{page.name}: golf {line}"


def test_the_pages_build(tmp_path):
    """Strict: a page outside the table of contents or a broken link fails."""
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    assert (tmp_path / "site" / "tutorial" / "index.html").is_file()


def test_golf_says_under_which_terms():
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert 'license = "MIT"' in (ROOT / "pyproject.toml").read_text()
