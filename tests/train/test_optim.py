import math

import pytest
import torch
from train_toy import Counting, Toy, spec

from golf.contracts import CheckpointError
from golf.host import Host
from golf.train import optim
from golf.train.optim import COEFFICIENTS, Optimizer, adamw_, muon_update, orthogonalize
from golf.train.spec import AdamW, Muon


def reference_orthogonalize(matrix, steps, iterations):
    """The odd polynomial applied to the singular values, in float64, through an SVD."""
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    S = S / S.square().sum().sqrt()
    for index in range(iterations):
        a, b, c = steps[min(index, len(steps) - 1)]
        S = a * S + b * S**3 + c * S**5
    return U @ torch.diag(S) @ Vh


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)], ids=str)
@pytest.mark.parametrize("iterations", [1, 5, 7])
def test_newton_schulz_is_the_polynomial_of_the_singular_values(coefficients, shape, iterations):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    spec = Muon(coefficients=coefficients, iterations=iterations)
    result = orthogonalize(matrices, spec, torch.float32)
    for matrix, found in zip(matrices, result):
        expected = reference_orthogonalize(matrix, COEFFICIENTS[coefficients], iterations)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


def spread(coefficients, matrices):
    values = torch.linalg.svdvals(orthogonalize(matrices, Muon(coefficients=coefficients), torch.float32))
    return values.min().item(), values.max().item()


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)], ids=str)
def test_singular_values_end_near_one(shape):
    torch.manual_seed(1)
    rectangular = shape[0] != shape[1]
    low, high = spread("polar", torch.randn(4, *shape))
    assert high < 1.2 and (low > 0.8 or not rectangular)
    low, high = spread("classic", torch.randn(4, *shape))
    assert high < 1.3 and (low > 0.6 or not rectangular)


def test_polar_express_conditions_better_than_the_classic_polynomial():
    """Singular values over four decades: the smallest is lifted further, the largest stays nearer to one."""
    torch.manual_seed(2)
    U, _ = torch.linalg.qr(torch.randn(48, 48))
    V, _ = torch.linalg.qr(torch.randn(48, 48))
    matrix = (U @ torch.diag(torch.logspace(0, -4, 48)) @ V)[None]
    polar_low, polar_high = spread("polar", matrix)
    classic_low, classic_high = spread("classic", matrix)
    assert polar_high / polar_low < 0.5 * classic_high / classic_low


@pytest.mark.parametrize("cached", [1, 500, 1 << 17])
def test_batched_equals_one_by_one(monkeypatch, cached):
    monkeypatch.setattr(optim, "CACHED", cached)
    torch.manual_seed(3)
    matrices = torch.randn(5, 12, 20)
    together = orthogonalize(matrices, Muon(), torch.float32)
    alone = torch.cat([orthogonalize(matrix[None], Muon(), torch.float32) for matrix in matrices])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_zero_matrices_stay_zero_and_tiny_ones_do_not_matter_less():
    torch.manual_seed(4)
    matrix = torch.randn(1, 8, 8)
    assert orthogonalize(torch.zeros(2, 8, 8), Muon(), torch.float32).count_nonzero() == 0
    scaled = orthogonalize(matrix * 1e-12, Muon(), torch.float32)
    torch.testing.assert_close(scaled, orthogonalize(matrix, Muon(), torch.float32), rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close():
    torch.manual_seed(5)
    matrices = torch.randn(2, 32, 64)
    low = orthogonalize(matrices, Muon(), torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert (low.float() - orthogonalize(matrices, Muon(), torch.float32)).abs().max() < 0.05


@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)], ids=str)
def test_muon_follows_the_slow_reference(row_normalize, shape):
    """Nesterov momentum, row norms, polynomial and shape factor spelled out for one matrix in float64."""
    torch.manual_seed(6)
    spec = Muon(row_normalize=row_normalize)
    buffer, slow = torch.zeros(2, *shape), torch.zeros(2, *shape, dtype=torch.float64)
    for step in range(4):
        grads, momentum = torch.randn(2, *shape), 0.9 + 0.01 * step
        update = muon_update(grads, buffer, momentum, spec, torch.float32)
        for index in range(2):
            slow[index] = momentum * slow[index] + grads[index].double()
            direction = grads[index].double() + momentum * slow[index]
            if row_normalize:
                direction = torch.stack([row / row.square().sum().sqrt() for row in direction])
            expected = reference_orthogonalize(direction, COEFFICIENTS["polar"], 5)
            expected *= math.sqrt(max(1.0, shape[0] / shape[1]))
            torch.testing.assert_close(update[index].double(), expected, rtol=0, atol=1e-3)


def test_adamw_equals_torchs():
    torch.manual_seed(7)
    spec = AdamW(lr=0.03, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.1)
    value = torch.randn(50)
    theirs = torch.nn.Parameter(value.clone())
    reference = torch.optim.AdamW([theirs], lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=0.1)
    first, second = torch.zeros(50), torch.zeros(50)
    for step in range(1, 21):
        grad = torch.randn(50) * step
        theirs.grad, reference.param_groups[0]["lr"] = grad.clone(), spec.lr / step
        reference.step()
        adamw_(value, grad, first, second, step, spec.lr / step, spec)
        torch.testing.assert_close(value, theirs.detach(), rtol=1e-6, atol=1e-6)


def trained(steps=3, **changes):
    torch.manual_seed(8)
    model, stream = Toy(), Counting()
    optimizer, stats = Optimizer(model, model.roles(), spec(**changes), Host()), None
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model.loss(*stream.next())
        loss.backward()
        stats = optimizer.step(step, 1.0, loss.detach())
    return model, optimizer, stats


def test_whole_step_follows_the_slow_reference():
    """Roles, learning rates, decay, clipping: everything a step does, spelled out parameter by parameter."""
    torch.manual_seed(8)
    slow, stream = Toy(), Counting()
    muon = Muon(lr=0.05, weight_decay=0.2, momentum=0.9, momentum_start=0.5, momentum_steps=4)
    head, control = AdamW(lr=0.02, weight_decay=0.1), AdamW(lr=0.01)
    kinds = {"table": head, "gain": control}
    state = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in slow.named_parameters()}
    for step in range(1, 4):
        slow.zero_grad()
        slow.loss(*stream.next()).backward()
        norm = torch.nn.utils.clip_grad_norm_(slow.parameters(), 0.1)
        for name, parameter in slow.named_parameters():
            first, second = state[name]
            with torch.no_grad():
                if name in kinds:
                    adamw_(parameter, parameter.grad, first, second, step, kinds[name].lr, kinds[name])
                else:
                    momentum = 0.5 + 0.1 * (step - 1)  # the first step has what it starts from
                    update = muon_update(parameter.grad[None], first[None], momentum, muon, torch.float32)[0]
                    parameter.copy_(parameter * (1 - 0.05 * 0.2) - 0.05 * update)
    model, _, stats = trained(matrix=muon, head=head, control=control, grad_clip=0.1)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), slow.named_parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert stats[2:].sum().sqrt().item() == pytest.approx(norm.item(), rel=1e-4)


def test_adamw_on_everything_is_torchs_with_a_group_for_each_role():
    torch.manual_seed(8)
    slow, stream = Toy(), Counting()
    rules = {
        "matrix": AdamW(lr=0.02, betas=(0.9, 0.95), weight_decay=0.3),
        "head": AdamW(lr=0.01, weight_decay=0.1),
        "control": AdamW(lr=0.01),
    }
    groups = [
        {
            "params": [p for name, p in slow.named_parameters() if slow.roles()[name].value == role],
            **{"lr": rule.lr, "betas": rule.betas, "weight_decay": rule.weight_decay},
        }
        for role, rule in rules.items()
    ]
    reference = torch.optim.AdamW(groups)
    for _ in range(4):
        reference.zero_grad()
        slow.loss(*stream.next()).backward()
        torch.nn.utils.clip_grad_norm_(slow.parameters(), 1.0)
        reference.step()
    model, optimizer, _ = trained(steps=4, grad_clip=1.0, **rules)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), slow.named_parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
    assert {name.split(".")[0] for name in optimizer.state()} == {"first", "second"}


def test_clipping_changes_adam_only_through_the_history():
    """The figures are those before clipping, with and without it."""
    _, _, clipped = trained(steps=1, grad_clip=0.01)
    _, _, free = trained(steps=1, grad_clip=0.0)
    torch.testing.assert_close(clipped, free)


def test_control_parameters_do_not_decay_by_default():
    model, optimizer, _ = trained(steps=0)
    before = model.gain.detach().clone()
    optimizer.zero_grad()
    optimizer.step(1, 1.0, torch.tensor(0.0))
    assert torch.equal(model.gain, before)
    assert not torch.equal(model.up.weight, trained(steps=0)[0].up.weight)  # the default Muon decays


def test_state_comes_back_to_the_bit():
    _, optimizer, _ = trained()
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    assert {name.split(".")[0] for name in state} == {"momentum", "first", "second"}
    _, fresh, _ = trained(steps=0)
    fresh.restore(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state().items())
    state.pop("first.gain")
    with pytest.raises(CheckpointError, match=r"first\.gain"):
        fresh.restore(state)


def test_padding_never_moves():
    model, optimizer, _ = trained(steps=3, control=AdamW(lr=0.1, weight_decay=0.1))
    (control,) = (bank for bank in optimizer.banks if bank.label == "control")
    assert control.values.numel() == 32 and control.values[17:].count_nonzero() == 0
    assert model.gain.numel() == 17
