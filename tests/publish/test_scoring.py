"""The evaluation that travels with a model, read back as its own kind or as another."""

import dataclasses
import json
import re

import pytest

from golf.contracts import SpecError
from golf.eval import kinds
from golf.eval.lora import DocumentLoRA
from golf.eval.rolling import Rolling
from golf.eval.sliding import SlidingWindow
from golf.publish.bundle.one_file import bundle
from golf.publish.use.scoring import by_documents_of, evaluation

OTHERS = {"batch_tokens": 64, "documents": "isolated", "layers": ("c_q", "fc"), "chunk": 32, "lanes": 3, "lr": 0.125}


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_kind_comes_back_from_its_json(kind):
    chosen = kinds.spec_class(kind)
    known = {field.name for field in dataclasses.fields(chosen)}
    spec = dataclasses.replace(chosen(), window=128, **{name: OTHERS[name] for name in known & OTHERS.keys()})
    assert spec.kind == kind
    assert evaluation(json.loads(json.dumps({"kind": kind, **dataclasses.asdict(spec)}))) == spec
    assert (spec.plain.kind, spec.plain.window, spec.plain.stride) == ("sliding", 128, 128)
    assert (spec.fixed is spec) == (kind in ("sliding", "rolling"))
    assert spec.tiny().window == 64


def test_another_kind_takes_what_both_have():
    values = {"window": 512, "stride": 32}  # artifacts of earlier versions name no kind
    assert evaluation(values) == SlidingWindow(window=512, stride=32)
    assert evaluation(values, "rolling") == Rolling(window=512)
    assert evaluation({**values, "kind": "sliding", "bos": 2}, "document-lora") == DocumentLoRA(window=512, bos=2)


def test_what_no_golf_can_read():
    with pytest.raises(SpecError, match="unknown kind of evaluation 'slidng'; did you mean 'sliding'"):
        evaluation({"window": 512}, "slidng")
    with pytest.raises(SpecError, match="SlidingWindow has no field 'strde'"):
        evaluation({"strde": 512})


@pytest.mark.parametrize("how", [SlidingWindow(documents="isolated"), DocumentLoRA()])
def test_documents_begin_where_the_tokenizer_says(how):
    assert by_documents_of(7, how, asked=False) == dataclasses.replace(how, bos=7)
    assert by_documents_of(1, how, asked=True) is how
    with pytest.raises(SpecError, match="eval.bos=1 begins no document, the tokenizer begins them with 7"):
        by_documents_of(7, how, asked=True)
    for other in (SlidingWindow(bos=3), Rolling()):
        assert by_documents_of(7, other, asked=True) is other


@pytest.fixture(scope="module")
def adapted(small, golf, tmp_path_factory):
    """A finished run of the small record whose evaluation learns; its folder."""
    folder = tmp_path_factory.mktemp("adapted")
    text = (small / "recipe.py").read_text()
    text = text.replace("from golf.eval.sliding import SlidingWindow", "from golf.eval.chunks import ChunkSGD")
    own = "eval=ChunkSGD(window=32, stride=16, chunk=1024, lr=0.01, rows=8)"
    (folder / "recipe.py").write_text(re.sub(r"eval=SlidingWindow\(.*?\)", own, text))
    golf("run", folder, "--seed", 1, "--out", folder / "out")
    return folder / "out" / "1"


def test_a_run_names_its_kind_and_reports_the_fixed_score_beside(adapted, golf):
    result = json.loads((adapted / "result.json").read_text())
    assert result["eval_kind"] == "chunk-sgd" and result["val_bpb"] != result["val_bpb_fixed"]
    events = [json.loads(line) for line in (adapted / "events.jsonl").read_text().splitlines()]
    finals = [event["what"] for event in events if event["event"] == "final"]
    assert finals == ["chunk-sgd", "fixed", "roundtrip", "unquantized"]
    again = json.loads(golf("score", adapted, "--json").stdout)
    assert again["eval_kind"] == "chunk-sgd" and again["val_bpb"] == pytest.approx(result["val_bpb"], abs=1e-6)
    assert again["val_bpb_fixed"] == pytest.approx(result["val_bpb_fixed"], abs=1e-6)
    other = json.loads(golf("score", adapted, "--eval", "sliding", "--json").stdout)
    assert other["eval_kind"] == "sliding" and other["val_bpb"] == pytest.approx(result["val_bpb_fixed"], abs=1e-6)
    printed = golf("score", adapted).output
    assert "chunk-sgd" in printed and "fixed predictor" in printed


@pytest.mark.parametrize(("kind", "setting"), [("rolling", "eval.chunk=100"), ("document-lora", "eval.chunk=32")])
def test_any_run_is_scored_by_another_kind(three, golf, kind, setting):
    run = three / "1"
    result = json.loads((run / "result.json").read_text())
    assert result["eval_kind"] == "sliding" and result["val_bpb_fixed"] == result["val_bpb"]
    found = json.loads(golf("score", run, "--eval", kind, "--set", setting, "--json").stdout)
    assert found["eval_kind"] == kind and found["tokens_scored"] == result["tokens_scored"]
    assert found["bytes_scored"] == result["bytes_scored"]
    assert 0 < abs(found["val_bpb"] - result["val_bpb"]) < 0.1


def test_a_bundle_holds_the_evaluation_its_recipe_names(adapted):
    modules = bundle(adapted.parents[1]).modules
    assert "golf.eval.chunks" in modules and "golf.eval.rolling" not in modules
