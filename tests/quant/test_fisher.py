"""Curvature from drawn targets equals the Fisher matrix written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from golf.contracts import HessianError, Role
from golf.host import Host
from golf.quant.fisher import INPUT_DAMP, ROW_DAMP, UNSEEN, Curvature, collect


class Lookup(nn.Module):
    """Logits of a table that is only looked up, so that what is not in the text has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(50, 4, generator=random))
        self.head = nn.Parameter(torch.randn(50, 4, generator=random))

    def roles(self) -> dict[str, Role]:
        return {"table": Role.EMBED, "head": Role.HEAD}

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids] @ self.head.T


class Tied(nn.Module):
    """Logits of a tied table through one matrix that is used twice, and a gain."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(5, 4, generator=random))
        self.matrix = nn.Parameter(torch.randn(4, 4, generator=random) * 0.4)
        self.gain = nn.Parameter(torch.tensor([1.0, 0.5, 2.0, 1.5]))
        self.unused = nn.Parameter(torch.randn(3, 4, generator=random))

    def roles(self) -> dict[str, Role]:
        return dict.fromkeys(("table", "matrix", "unused"), Role.MATRIX) | {"gain": Role.CONTROL}

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table[ids]
        for _ in range(2):
            x = torch.tanh(x @ self.matrix.T) * self.gain
        return x @ self.table.T


def fisher(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Sum over tokens and over every target, weighted by its probability, of the gradient's outer product: exact,
    because drawn targets of two tokens are independent and every gradient's mean is zero. By name, [n, n]."""
    weights = dict(model.named_parameters())
    sums = {name: torch.zeros(W.numel(), W.numel()) for name, W in weights.items()}
    logits = model(ids).flatten(0, 1)
    for row in logits.log_softmax(dim=-1):
        for nats in row:
            for name, slope in zip(
                weights, torch.autograd.grad(nats, list(weights.values()), retain_graph=True, allow_unused=True)
            ):
                if slope is not None:
                    sums[name] += nats.detach().exp() * torch.outer(slope.flatten(), slope.flatten())
    return {name: total / ids.numel() for name, total in sums.items()}


def test_many_draws_approach_the_fisher_matrix():
    model, ids = Tied(), torch.tensor([[0, 1, 2, 3, 4, 1, 2], [4, 4, 0, 1, 2, 2, 3]])
    exact = fisher(model, ids)
    found = collect(model, [ids] * 3000, host=Host())
    assert found.tokens == 3000 * ids.numel()
    for name, (rows, width) in {"table": (5, 4), "matrix": (4, 4)}.items():
        F_RKRK = exact[name].view(rows, width, rows, width)
        inputs_KK, rows_R = torch.einsum("rkrl->kl", F_RKRK), torch.einsum("rkrk->r", F_RKRK) / width
        curvature = found.by_name[name]
        torch.testing.assert_close(curvature.inputs_KK, inputs_KK / inputs_KK.diagonal().mean(), rtol=0.1, atol=0.05)
        torch.testing.assert_close(curvature.rows_R, rows_R + ROW_DAMP * rows_R.mean(), rtol=0.1, atol=0.0)
    assert found.by_name["gain"].inputs_KK is None
    torch.testing.assert_close(
        found.by_name["gain"].rows_R, exact["gain"].trace()[None] * (1 + ROW_DAMP) / 4, rtol=0.1, atol=0.0
    )


def test_a_tensor_no_token_reached_has_no_curvature():
    found = collect(Tied(), [torch.tensor([[0, 1]])], host=Host()).by_name["unused"]
    assert found.inputs_KK is None and not found.rows_R.any()


@pytest.mark.parametrize("times", [1, 40])
def test_rows_that_no_text_reached_count_by_how_little_was_read(times):
    batches = [torch.tensor([[0, 1, 2]]), torch.tensor([[2, 3, 3]])] * times
    rows_R = collect(Lookup(), batches, host=Host()).by_name["table"].rows_R
    unseen = rows_R[4:]
    seen_R = rows_R[:4] - unseen[0]
    # Rows 0 and 1 meet a gradient in every other batch, 2 in each, 3 in every other: five in two batches.
    assert torch.equal(unseen, unseen[:1].expand(46)) and (seen_R > 0).all()
    half = UNSEEN * seen_R.sum() / (5 * times)
    torch.testing.assert_close(unseen[0], torch.maximum(half, ROW_DAMP * seen_R.sum() / 50), rtol=1e-4, atol=0.0)


def test_the_same_seed_gives_the_same_curvature():
    first, again = (collect(Tied(), [torch.tensor([[0, 1, 3]])] * 4, host=Host()).by_name for _ in range(2))
    assert all(torch.equal(first[name].rows_R, again[name].rows_R) for name in first)


def test_nothing_to_read_is_refused():
    with pytest.raises(HessianError, match="0 tokens"):
        collect(Tied(), [], host=Host())


def test_a_gradient_that_is_not_finite_is_refused_by_name():
    """One entry is enough: it would make that row's step, and no other's, meaningless."""
    model = Tied()
    model.matrix.register_hook(lambda slope: slope.index_fill(0, torch.tensor([2]), torch.inf))
    with pytest.raises(HessianError, match="matrix .* is not finite"):
        collect(model, [torch.tensor([[0, 1, 2, 3]])], host=Host())


def test_predicted_loss_is_the_quadratic_form_written_out():
    random = torch.Generator().manual_seed(1)
    X, E = torch.randn(9, 4, generator=random), torch.randn(3, 4, generator=random)
    curvature = Curvature("w", X.T @ X, torch.tensor([1.0, 2.0, 0.5]))
    slow = sum(0.5 * curvature.rows_R[r] * E[r] @ curvature.inputs_KK @ E[r] for r in range(3))
    assert curvature.loss(E) == pytest.approx(slow.item(), rel=1e-5)
    diagonal = Curvature("w", None, torch.tensor([3.0]))
    assert diagonal.loss(E[:1]) == pytest.approx(1.5 * E[0].square().sum().item(), rel=1e-5)


def test_the_factor_belongs_to_the_damped_inputs_quietest_first():
    X = torch.randn(50, 6, generator=torch.Generator().manual_seed(2)) * torch.tensor([3.0, 1, 2, 0.1, 5, 0])
    curvature = Curvature("w", X.T @ X, torch.ones(2))
    factor, H = curvature.factor, curvature.inputs_KK.double()
    assert factor.order_K.tolist() == [5, 3, 1, 2, 0, 4] and factor.dead_K.tolist() == [False] * 5 + [True]
    typical = H.trace() / 5
    damped = H + torch.diag(INPUT_DAMP * typical + typical * factor.dead_K)
    damped = damped[factor.order_K][:, factor.order_K]
    torch.testing.assert_close(factor.U_KK.T @ factor.U_KK, damped.inverse())
