"""How much the loss minds an error in each weight: the Fisher matrix of every tensor, as a Kronecker product.

The model reads training text and draws the targets from its own predictions; the gradients this gives have the
Fisher matrix as their covariance, which is what the second derivative of the loss's rise is made of. A gradient of
a whole batch is taken at once: it holds every place a weight works in (both ends of a tied table, all passes of a
loop), and since targets are drawn independently, batches of any size give the same matrix, only more or less noisy.

Source: Martens and Grosse, arXiv 1503.05671 (the product); YAQA, arXiv 2505.22988 (gradients of whole sequences).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.contracts import HessianError, Hessians, Role
from golf.host import Host, eagerly
from golf.quant.gptq import Factor, factor
from golf.quant.grid import as_rows

# Share of the mean curvature added along every input, and to every row. Directions no calibration text showed
# would otherwise be free to rot.
INPUT_DAMP, ROW_DAMP = 0.003, 0.01
# What every row is taken to have been met with besides, in gradients of the mean row's size: most rows of a large
# table meet none in a little text, which says how little was read and not how little they matter.
UNSEEN = 0.5


@dataclass(frozen=True)
class Curvature:
    """The loss rises by 1/2 sum_r rows_r e_r inputs e_rT nats per token, e_r the error of row r.

    inputs_KK: mean diagonal 1, undamped. None for control tensors, all of whose columns count the same.
    rows_R: mean squared gradient of a weight in the row, damped.
    """

    name: str
    inputs_KK: Tensor | None
    rows_R: Tensor

    @cached_property
    def factor(self) -> Factor:
        """Of the damped inputs, for the column loop of GPTQ, which visits the quietest inputs first.

        With steps that suit the factor the order makes no difference as long as steps are small against weights.
        Where a step is wider than its weights are, the error is less than a step's, and that happens where inputs
        are quiet: then the louder ones still can make up for it.
        """
        order_K = torch.argsort(self.inputs_KK.diagonal(), stable=True)
        found = factor(self.name, self.inputs_KK[order_K][:, order_K], INPUT_DAMP, act_order=False)
        return replace(found, order_K=order_K, dead_K=self.inputs_KK.diagonal() == 0)

    def loss(self, E_RK: Tensor) -> float:
        """Nats per token that an error of the weight (on the CPU) is predicted to cost."""
        E_RK = E_RK.double()
        moved_RK = E_RK if self.inputs_KK is None else E_RK @ self.inputs_KK.cpu().double()
        return 0.5 * (self.rows_R.cpu().double() * (moved_RK * E_RK).sum(dim=1)).sum().item()


def collect(model: nn.Module, batches: Iterable[Tensor], *, host: Host, seed: int = 0) -> Hessians:
    """The curvature of every parameter from batches of ids [B, T] of this rank's share, by name.

    All ranks return the same. Raises HessianError when no batch has a token or a gradient is not finite.
    """
    weights = dict(model.named_parameters())
    roles = model.roles()
    wide = {name: W.shape[-1] if roles[name] is not Role.CONTROL else 0 for name, W in weights.items()}
    inputs = {name: torch.zeros(width, width, device=host.device) for name, width in wide.items()}
    rows = {name: torch.zeros(len(as_rows(W)), device=host.device) for name, W in weights.items()}
    met = {name: torch.zeros((), dtype=torch.int64, device=host.device) for name in weights}
    tokens = torch.zeros((), dtype=torch.int64, device=host.device)
    random = torch.Generator(host.device).manual_seed(seed * host.world + host.rank)
    half = torch.autocast(host.device.type, host.compute_dtype, enabled=host.compute_dtype != torch.float32)
    with torch.enable_grad(), eagerly():
        for ids_BT in batches:
            with half:
                logits_NV = model(ids_BT.to(host.device)).flatten(0, 1).float()
            drawn_N = torch.multinomial(logits_NV.detach().softmax(dim=-1), 1, generator=random)[:, 0]
            loss = F.cross_entropy(logits_NV, drawn_N, reduction="sum")
            slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, slope in zip(weights, slopes):
                if slope is not None:
                    slope_RK = as_rows(slope.float())
                    squares_R = slope_RK.square().sum(dim=1)
                    rows[name] += squares_R
                    met[name] += squares_R.count_nonzero()
                    if wide[name]:
                        inputs[name].addmm_(slope_RK.T, slope_RK)
            tokens += ids_BT.numel()
    read = host.sum(tokens).item()
    if not read:
        raise HessianError("calibration read 0 tokens and needs at least 1; raise Calibration.sequences")
    found = {}
    for name, W in weights.items():
        rows_R, gradients = host.sum(rows[name]).div_(read), host.sum(met[name]).item()
        found[name] = _curvature(name, W, host.sum(inputs[name]), rows_R, gradients)
    return Hessians(found, read)


def _curvature(name: str, W: Tensor, inputs_KK: Tensor, rows_R: Tensor, gradients: int) -> Curvature:
    """gradients: how many that are not zero all rows met together."""
    if not rows_R.isfinite().all():
        raise HessianError(f"the gradient of {name} on calibration text is not finite; check the averaged weights")
    rows_R = rows_R / as_rows(W).shape[1]
    rows_R = rows_R + max(ROW_DAMP, UNSEEN * len(rows_R) / max(gradients, 1)) * rows_R.mean()
    typical = inputs_KK.diagonal().mean() if len(inputs_KK) else 0
    return Curvature(name, inputs_KK / typical if typical else None, rows_R)
