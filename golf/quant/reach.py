"""Whether a byte budget can be met at all, told from shapes alone, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from golf.contracts import BudgetError, Role
from golf.quant.apply import Plan
from golf.quant.clip import OnGrid

# At the coarsest sensible steps a near-Gaussian weight still carries 1.2 bits; heavier tails carry a little less.
LEAST_BITS = 1.0


def least_bytes(weights: Mapping[str, Tensor], roles: Mapping[str, Role], spec: Plan) -> int:
    """Bytes that no setting of the steps gets under: LEAST_BITS a code, or what its method says. Floats and scales
    are left out, because nobody knows yet how well they will pack. Only the shapes of `weights` are looked at."""
    methods = {name: spec.method(roles[name], W.numel()) for name, W in weights.items()}
    on_grid = {name: method for name, method in methods.items() if isinstance(method, OnGrid)}
    bits = sum(weights[name].numel() * getattr(method, "least_bits", LEAST_BITS) for name, method in on_grid.items())
    return int(bits / 8)


def check(weights: Mapping[str, Tensor], roles: Mapping[str, Role], spec: Plan, cap: int | None) -> None:
    """Raises BudgetError when `cap` bytes are fewer than these shapes can ever be packed into."""
    least = least_bytes(weights, roles, spec)
    if cap is not None and least > cap:
        count = sum(W.numel() for W in weights.values())
        raise BudgetError(
            f"{count:,} parameters need at least {least:,} bytes however coarse their grid, {least - cap:,} over the "
            f"{cap:,} left for weights; narrow the model or raise the cap"
        )
