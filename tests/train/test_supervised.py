"""Targets of -100 train nothing, and the loss is a mean over the others, however they fall into batches and ranks."""

import pytest
import torch
import torch.nn.functional as F
from test_engine import Events, digest, run
from train_toy import Counting, Toy, spec

from golf.arch.nanochat import GeluGPTSpec
from golf.arch.powergqa import PowerGQASpec
from golf.arch.qed import QEDSpec
from golf.arch.unet import UNetSpec
from golf.arch.xgqa import GPTSSpec
from golf.contracts import CheckpointError
from golf.host import Host
from golf.train import checkpoint
from golf.train.init import Weights, differences
from golf.train.job import Job
from golf.train.spec import AdamW


class Masked(Counting):
    """Batches whose share of supervised targets differs widely; `supervised` counts what was handed out."""

    def __init__(self, rank=0, world=1):
        super().__init__(rank, world)
        self.supervised = 0

    def next(self):
        share = (0.1, 0.9, 0.02, 0.5)[(self.position * self.world + self.rank) % 4]
        generator = torch.Generator().manual_seed(1000 + self.position * self.world + self.rank)
        ids, targets = super().next()
        mask = torch.rand(targets.shape, generator=generator) > share
        mask[0, -1] = False
        targets = targets.masked_fill(mask, -100)
        self.supervised += int((~mask).sum())
        return ids, targets


def mean_gradients(model, batches):
    """Gradients of the mean over all supervised targets of all batches, at once."""
    model.zero_grad()
    logits = torch.cat([model(ids).flatten(0, 1) for ids, _ in batches])
    targets = torch.cat([targets.flatten() for _, targets in batches])
    chosen = targets != -100
    loss = -F.log_softmax(logits[chosen], -1).gather(1, targets[chosen, None]).mean()
    loss.backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return loss.item(), grads


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_uneven_batches_weigh_by_their_targets(clip):
    """One step of AdamW with eps so large that it follows the gradient, against the gradient of the whole."""
    rules = dict.fromkeys(("matrix", "head", "control"), AdamW(lr=1.0, betas=(0.0, 0.0), eps=1e6))
    torch.manual_seed(3)
    model = Toy()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    stream = Masked()
    loss, gradients = mean_gradients(model, [stream.next() for _ in range(4)])
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    given = spec(batch_tokens=4 * 32, grad_clip=clip, **rules)
    job = Job(model, Masked(), given, Host(), {})
    share, mean, *squares = job.advance(1.0).tolist()
    assert round(share * 128) == stream.supervised < 64
    assert mean == pytest.approx(loss, rel=1e-5) and sum(squares) ** 0.5 == pytest.approx(norm, rel=1e-5)
    shrink = min(1.0, clip / norm) if clip else 1.0
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter.detach()) * 1e6
        torch.testing.assert_close(moved, shrink * gradients[name], rtol=2e-2, atol=0.12, msg=name)


def test_masked_targets_give_their_logits_no_gradient():
    """The engine's own backward pass, seen where the logits are made."""
    seen = []

    class Watched(Toy):
        def forward(self, ids, tail=None):
            logits = super().forward(ids)
            logits.register_hook(seen.append)
            return logits

    stream = Masked()
    job = Job(Watched(), stream, spec(batch_tokens=4 * 32), Host(), {})
    job.backward()
    again = Masked()
    for gradient in seen:
        _, targets = again.next()
        touched = gradient.abs().sum(-1) > 0
        assert torch.equal(touched, targets != -100)


SPECS = (
    UNetSpec(vocab=64, rope_length=24).tiny(),
    GPTSSpec(vocab=64).tiny(),
    GeluGPTSpec(vocab=64, window=24).tiny(),
    QEDSpec(vocab=64).tiny(),
    PowerGQASpec(vocab=64).tiny(),
)


@pytest.mark.parametrize("shape", SPECS, ids=lambda shape: shape.family)
def test_masked_targets_train_nothing_in_any_family(shape):
    """The family's own loss against its logits at supervised places alone, down to every parameter's gradient."""
    torch.manual_seed(5)
    model = shape.build()
    for parameter in model.parameters():  # projections that start at zero would hide what reaches them
        parameter.data += 0.02 * torch.randn_like(parameter)
    ids, targets = torch.randint(3, 64, (3, 24)), torch.randint(3, 64, (3, 24))
    targets = targets.masked_fill(torch.rand(3, 24) < 0.7, -100)
    loss, expected = mean_gradients(model, [(ids, targets)])
    model.zero_grad()
    model.loss(ids, targets).backward()
    assert model.loss(ids, targets).item() == pytest.approx(loss, rel=1e-5)
    for name, parameter in model.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-6, msg=name)


def test_what_a_masked_target_was_changes_nothing():
    """Replacing masked words by others (in targets only) leaves the trained bits alone; unmasking one does not."""

    def trained(alter):
        class Altered(Masked):
            def next(self):
                ids, targets = super().next()
                return ids, alter(targets)

        return digest(run(stream=Altered(), steps=3)[1].average)

    plain = trained(lambda targets: targets)
    assert plain == trained(lambda targets: targets.clone())
    assert plain != trained(lambda targets: targets.masked_fill(torch.eye(4, 8, dtype=bool), 3))


def test_the_report_counts_supervised_tokens_across_a_resume(tmp_path):
    path, events = tmp_path / "state.safetensors", Events()
    given = {"checkpoint": path, "resume": True}

    class Stop(Exception):
        pass

    def stop(event):
        if event.kind == "step" and event.values["step"] == 4:
            raise Stop

    with pytest.raises(Stop):
        run(stop, stream=Masked(), steps=7, checkpoint_seconds=0, given=given)
    _, trained = run(events, stream=Masked(), steps=7, checkpoint_seconds=0, given=given)
    stream = Masked()
    for _ in range(14):
        stream.next()
    assert trained.supervised == stream.supervised == events.of("train_end")[0]["supervised"]
    assert trained.supervised < trained.tokens == 7 * 64
    assert run(steps=7)[1].supervised == 7 * 64


# ------------------------------------------------------------------------------------------------ given weights

ABOUT = {"model": {"family": "toy", "layers": 2, "heads": {"q": 4}}, "tokenizer_sha256": "a" * 64}


def test_training_continues_from_given_weights(tmp_path):
    model, _ = run(steps=3)
    checkpoint.save_weights(tmp_path / "weights.safetensors", model.state_dict(), ABOUT | {"tokenizer": ""})
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        fresh = Toy()
        Weights(path=str(path)).load(fresh, ABOUT)
        assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"model": {"family": "toy", "layers": 3, "heads": {"q": 2}}}, "layers is 2 there and 3 here, heads.q is 4"),
        ({"model": {"family": "toy", "layers": 2, "heads": {"q": 4}, "new": 1}}, "new is None there and 1 here"),
        ({"tokenizer_sha256": "b" * 64}, "SHA-256 aaaaaaaaaaaaaaaa..., the corpus bbbbbbbbbbbbbbbb"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, about, told):
    checkpoint.save_weights(tmp_path / "w.safetensors", Toy().state_dict(), ABOUT)
    with pytest.raises(CheckpointError, match=told):
        Weights(path=str(tmp_path / "w.safetensors")).load(Toy(), ABOUT | about)


def test_weights_without_a_shape_are_refused(tmp_path):
    checkpoint.save_weights(tmp_path / "w.safetensors", Toy().state_dict(), {})
    with pytest.raises(CheckpointError, match="carries no model shape"):
        Weights(path=str(tmp_path / "w.safetensors")).load(Toy(), ABOUT)
    with pytest.raises(CheckpointError, match="there is no file"):
        Weights(path=str(tmp_path / "nowhere")).load(Toy(), ABOUT)
    assert differences(ABOUT, ABOUT) == []
