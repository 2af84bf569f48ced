"""Two ranks under gloo do what one rank does with twice the micro-batches, and stay equal to each other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_engine import Events, digest
from test_supervised import Masked
from train_toy import Counting, Toy, quantizer, spec

from golf.contracts import CheckpointError, DivergedError
from golf.host import Host
from golf.train import checkpoint
from golf.train.engine import fit
from golf.train.spec import AdamW, Stage

pytestmark = pytest.mark.slow

# Banks of two and of one matrix: with two ranks the one is even, the other padded. A tight clip, so that a
# norm taken before the reduction, or over one rank's slice, would show.
STAGES = (Stage(begin=0.5, fake_quant=True),)
SPEC = spec(steps=8, grad_clip=0.05, stages=STAGES, checkpoint_seconds=0)
ADAMW = replace(SPEC, matrix=AdamW(lr=0.02, weight_decay=0.1))


class Poisoned(Toy):
    poison = 0.0

    def loss(self, ids, targets):
        return super().loss(ids, targets) + self.poison


def train(host: Host, path: Path, seed: int, resume: bool = False, events=None, poison=0.0, spec=SPEC, feed=Counting):
    torch.manual_seed(seed)  # ranks start apart on purpose: rank 0's weights must win
    model = Poisoned()
    model.poison = poison
    given = dict(
        host=host,
        sink=Events() if events is None else events,
        seed=1,
        switches={"fake_quant": quantizer(model)},
    )
    return fit(model, feed(host.rank, host.world), spec, checkpoint=path, resume=resume, **given)


def stop_at_five(event):
    if event.kind == "step" and event.values["step"] == 5:
        raise InterruptedError


def worker(rank: int, folder: Path) -> None:
    warnings.simplefilter("error", FutureWarning)  # the deprecated collectives would speak up
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    host, events = Host(rank, 2), Events()
    trained = train(host, folder / "whole", seed=rank, events=events)
    with pytest.raises(InterruptedError):
        train(host, folder / "stopped", seed=rank, events=stop_at_five)
    resumed = train(host, folder / "stopped", seed=7 + rank, resume=True)
    with pytest.raises(DivergedError, match="at step 1 "):  # only rank 1's loss is poisoned; both must stop
        train(host, folder / "poisoned", seed=0, poison=torch.nan if rank == 1 else 0.0)
    adamw = train(host, folder / "adamw", seed=rank, spec=ADAMW)
    masked = train(host, folder / "masked", seed=rank, feed=Masked)
    told = {
        "norms": [values["grad_norm"] for values in events.of("step")],
        "losses": [values["loss"] for values in events.of("step")],
        "seconds": trained.seconds,
        "resumed": digest(resumed.average),
    }
    checkpoint.save_weights(folder / f"rank{rank}", trained.average, told)
    checkpoint.save_weights(folder / f"adamw{rank}", adamw.average, {})
    figures = {"supervised": masked.supervised, "loss": masked.loss}
    checkpoint.save_weights(folder / f"masked{rank}", masked.average, figures)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(worker, (folder,), nprocs=2, start_method=forks.get_start_method())
    return folder, [checkpoint.load_weights(folder / f"rank{rank}") for rank in range(2)]


def alone(tmp_path):
    events = Events()
    return train(Host(), tmp_path / "alone", seed=0, events=events), events


def test_replicas_are_equal(ranks):
    (first, told), (second, told_too) = ranks[1]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert told == told_too


def test_two_ranks_train_what_one_trains(ranks, tmp_path):
    trained, events = alone(tmp_path)
    weights, told = ranks[1][0]
    norms = [values["grad_norm"] for values in events.of("step")]
    losses = [values["loss"] for values in events.of("step")]
    assert told["losses"] == pytest.approx(losses, rel=1e-4)
    assert told["norms"] == pytest.approx(norms, rel=1e-3)
    assert min(norms) > SPEC.grad_clip, "clipping must have been at work in every step"
    for name, tensor in trained.average.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_two_ranks_train_with_adamw_what_one_trains(ranks, tmp_path):
    one = train(Host(), tmp_path / "alone", seed=0, spec=ADAMW).average
    first, second = (checkpoint.load_weights(ranks[0] / f"adamw{rank}")[0] for rank in range(2))
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=2e-4, msg=name)
    moments, _ = checkpoint.load(ranks[0] / "adamw", world=2)  # gathered whole from their owners
    assert moments["second.up.weight"].shape == Toy().up.weight.shape
    assert moments["second.up.weight"].count_nonzero() == Toy().up.weight.numel()


def test_two_ranks_supervise_what_one_supervises(ranks, tmp_path):
    """Batches with a twentieth and nine tenths of their targets masked fall to ranks and accumulation alike."""
    one = train(Host(), tmp_path / "alone", seed=0, feed=Masked)
    for rank in range(2):
        weights, told = checkpoint.load_weights(ranks[0] / f"masked{rank}")
        assert told["supervised"] == one.supervised < one.tokens
        assert told["loss"] == pytest.approx(one.loss, rel=1e-4)
        for name, tensor in one.average.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_a_resumed_job_ends_in_the_same_bits(ranks):
    for average, told in ranks[1]:
        assert told["resumed"] == digest(average)


def test_a_checkpoint_of_two_ranks_is_refused_by_one(ranks):
    with pytest.raises(CheckpointError, match="world=2, this run has 1"):
        train(Host(), ranks[0] / "whole", seed=0, resume=True)


def test_a_batch_that_does_not_split_over_ranks_is_refused():
    given = dict(host=Host(), sink=Events(), seed=0, switches={})
    with pytest.raises(ValueError, match="x 4 ranks"):
        fit(Toy(), Counting(), replace(SPEC), **given | {"host": Host(0, 4)})
