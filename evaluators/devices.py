"""Which device the option `device` means."""

from typing import TYPE_CHECKING, Literal

from rf_repro.core.devices import resolve_device

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]


def device_of(name: str) -> "torch.device":
    """Raises UserError when it is not there."""
    return resolve_device(name, "device=")
