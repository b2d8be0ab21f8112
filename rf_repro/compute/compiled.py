"""Layers compiled by `torch.compile`, one compilation for all layers of a kind, where this machine can.

What a compiled layer computes differs from the same layer uncompiled by rounding alone. On a CPU it needs a C++ compiler.
"""

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import nn

from rf_repro.core.shown import say

Forward = TypeVar("Forward", bound=Callable[..., Any])
STEP_COMPILED = 0.75  # of the seconds of a step of the whole model at `tiny`, measured
FEW_STEPS = 2000  # of a stage at `tiny`, in which compiling, a minute or two where its cache is empty, would not pay


def compilable(forward: Forward) -> Forward:
    """A layer's `forward`, which is compiled while the layer trains and its attribute `compiled` is true (`compile_layers`)."""
    compiled = cache(lambda: torch.compile(forward))  # not before it is needed: the compiler loads for seconds

    @wraps(forward)
    def either(self: nn.Module, *arguments: Any) -> Any:
        use = self.training and getattr(self, "compiled", False)
        return (compiled() if use else forward)(self, *arguments)

    either.compilable = True  # type: ignore[attr-defined]
    return either  # type: ignore[return-value]


def compile_layers(model: nn.Module) -> None:
    """Lets all `compilable` layers of a model run compiled from now on, while it trains."""
    for layer in model.modules():
        if hasattr(type(layer).forward, "compilable"):
            layer.compiled = True  # type: ignore[assignment]


def wants_compiling(wish: str, steps: int, device: torch.device) -> bool:
    """Whether a stage's layers are to be compiled, where that is possible.

    Args:
        wish: `parallel.compile`. auto: on a CPU that has a C++ compiler, where the stage is long enough; on CUDA it was never
            measured.
        steps: of the stage.
    """
    return wish == "on" or (wish == "auto" and device.type == "cpu" and steps > FEW_STEPS)


def compiles(wish: str, steps: int, device: torch.device) -> bool:
    """Whether they are: as wished, and where the compiler works."""
    return wants_compiling(wish, steps, device) and can_compile(device.type)


@cache
def can_compile(device_type: str) -> bool:
    """Whether the compiler works for such a device: tried once, on a sum; where it does not, a line says why."""

    def work(x: torch.Tensor) -> torch.Tensor:
        return (x * x + 1).sum()

    try:
        torch.compile(work)(torch.ones(8, device=device_type, requires_grad=True)).backward()
    except Exception as error:  # of the compiler, of a compiler that it calls, of one that is not there
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
        say(f"layers are not compiled, and training is slower for it ({reason})", file=sys.stderr)
        return False
    return True
