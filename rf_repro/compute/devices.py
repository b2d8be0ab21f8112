"""Which device computes, and what happens where it cannot."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.core.devices import resolve_device as resolve_device
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError
from rf_repro.core.shown import say

T = TypeVar("T")
REMEDY = "; --device cpu does without it"
DEVICE_ERRORS = (RuntimeError, TypeError, AssertionError)  # a kernel or dtype that it lacks, memory; a build without the device


class DeviceFailed(UserError):
    """A device failed what it was asked for: its kernels, memory or driver do not fit."""


@contextmanager
def trying(device: torch.device, ranks: Ranks = ALONE) -> Iterator[None]:
    """Around work of a kind that a device may not be able to do: its errors become `DeviceFailed`. Not on the CPU, which has to
    do it all, nor among several ranks, of which one cannot leave."""
    try:
        yield
    except (UserError, Stopped, TrainingDiverged):
        raise
    except DEVICE_ERRORS as error:
        if device.type == "cpu" or ranks.size > 1:
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise DeviceFailed(f"{device.type} failed ({type(error).__name__}: {reason}){REMEDY}") from error


def on_device(name: str, work: Callable[[torch.device], T], may_fall_back: bool = True) -> T:
    """Does the work on a device; where `auto` chose one that fails, on the CPU, and says so in one line.

    Args:
        name: auto, cpu, cuda or mps.
        work: may be called a second time, and then goes on from what is on disk.
        may_fall_back: False where a CPU could not do it in any useful time, or other ranks would have to follow.

    Raises:
        DeviceFailed: the device failed, and was asked for by name or may not be left.
    """
    device = resolve_device(name)
    try:
        return work(device)
    except DeviceFailed as error:
        if name != "auto" or not may_fall_back:
            raise
        say(f"{str(error).removesuffix(REMEDY)}: going on with the CPU", file=sys.stderr)
        return work(torch.device("cpu"))


def release() -> None:
    """Gives back the device memory of what nothing holds any more, for what comes next in this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """That the work takes on the device."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin
