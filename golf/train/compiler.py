"""Whether and how the loss is compiled: chosen once, before the clock starts, and said aloud."""

from __future__ import annotations

from collections.abc import Callable

import torch

from golf.contracts import SpecError
from golf.train.spec import TrainSpec

# Compiling takes a CPU most of a minute, untimed, yet somebody waits for it.
WORTHWHILE_SECONDS = 120.0


def choose(spec: TrainSpec, device: torch.device) -> tuple[str, str]:
    """("inductor" or "eager", the reason in words)."""
    if spec.compile != "auto":
        return ("inductor" if spec.compile == "on" else "eager"), f"compile={spec.compile}"
    if device.type == "cuda":
        return "inductor", "a CUDA device"
    if spec.seconds is not None and spec.seconds >= WORTHWHILE_SECONDS:
        return "inductor", f"a budget of {spec.seconds:.0f} s repays it"
    return "eager", f"a run on {device.type} without {WORTHWHILE_SECONDS:.0f} s of budget would not repay it"


def compiled(function: Callable) -> Callable:
    """`function` as one graph per set of switches and fixed shapes; compiled when first called."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def trial(visit: Callable[[], None], spec: TrainSpec) -> str | None:
    """Run the visit that compiles. None when that went well, else why the machine cannot compile.

    Raises SpecError when compiling was demanded, or when it is the model that cannot be traced.
    """
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

    try:
        visit()
    except BackendCompilerFailed as error:  # no C++ compiler, no Python headers, a bug in the backend
        reason = str(error).strip().splitlines()[0]
        if spec.compile == "on":
            raise SpecError(
                f"compile='on', but this machine cannot: {reason}; install a C++ compiler and Python's "
                "headers, or set compile='off'"
            ) from error
        return reason
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError(f"the loss cannot be traced as one graph: {reason}; set compile='off' or mend it") from error
    return None
