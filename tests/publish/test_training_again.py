"""Training that begins again under watch: what warm-up leaves behind shows, and a validation file that is held."""

from __future__ import annotations

import pytest

from golf.eval.validity.verdict import Status
from golf.publish.verify.subject import Subject
from golf.publish.verify.training import Training

# A script of golf's shape: a recipe, and a function of three that knows --resume.
SCRIPT = """
import mmap
from types import SimpleNamespace as Values
import torch

RECIPE = Values(track="", model="", eval="", train=Values(seq_len=8, warmup_steps=2, steps=9, rows=4, batch_tokens=64))


def main(recipe, arguments, source):
    assert "--resume" not in arguments and recipe.train.batch_tokens == 8
    torch.manual_seed(1)
    model = torch.nn.Linear(8, 8)
    with open(HELD, "rb") as file:
        held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def learn():
        model.zero_grad()
        model(torch.arange(8.0)).square().sum().backward()
        with torch.no_grad():
            model.weight -= 0.01 * model.weight.grad

    print("gptq:reserving 0.0s of the training budget")
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(recipe.train.warmup_steps):
        learn()
    if RESTORED:
        model.load_state_dict(kept)
    for step in range(recipe.train.steps):
        learn()
        print(f"step:{step + 1} train_loss:{model.weight.sum().item():.4f} train_time:0.1s")
    print("fit: scale_multiplier:1.0 bytes:64")


if __name__ == "__main__":
    main(RECIPE, [], "")
"""


@pytest.mark.parametrize("sound", [True, False])
def test_a_script_trains_again(sound, tmp_path):
    train, val, script = (tmp_path / name for name in ("train.bin", "val.bin", "train_gpt.py"))
    for file in (train, val):
        file.write_bytes(bytes(64))
    script.write_text(f"HELD, RESTORED = {str(train if sound else val)!r}, {sound}\n{SCRIPT}")
    subject = Subject(name="again", kind="run", retrain=str(script), val_files=(str(val),), train_files=(str(train),))
    training = Training(subject, 100.0, whole=False)
    try:
        found = {verdict.check: verdict for verdict in training.verdicts()}
    finally:
        training.close()
    wanted = Status.PASS if sound else Status.FAIL
    assert {check: verdict.status for check, verdict in found.items()} == {"T3": wanted, "D3": wanted}, found


def test_what_cannot_be_trained_again_says_why():
    training = Training(Subject(name="foreign", kind="foreign"), 1.0, whole=False)
    assert all("trained again" in verdict.why for verdict in training.verdicts())
    training.close()
