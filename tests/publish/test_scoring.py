"""The evaluation that travels with a model, read back as its own kind or as another."""

import dataclasses
import json

import pytest

from golf.contracts import SpecError
from golf.eval import kinds
from golf.eval.lora import DocumentLoRA
from golf.eval.rolling import Rolling
from golf.eval.sliding import SlidingWindow
from golf.publish.scoring import evaluation

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
