"""Which device a name means on this machine."""

from typing import TYPE_CHECKING

from rf_repro.core.errors import UserError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str, option: str = "--device ") -> "torch.device":
    """`auto`: CUDA, else MPS, else the CPU. Raises UserError when the named one is not there.

    Args:
        option: what the message has before the name.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if name not in available:
        raise UserError(f"{option}{name}: unknown; choose auto, {', '.join(available)}")
    if not available[name]:
        raise UserError(f"{option}{name}: torch {torch.__version__} finds none here; use {option}auto or cpu")
    return torch.device(name)
