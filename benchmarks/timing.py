"""How the benchmarks time: variants in turn in one run, medians; and what a record says of machine, libraries and code."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch

from rf_repro.core.capacity import usable_cores
from rf_repro.core.provenance import code_revision, library_versions, utc_now
from rf_repro.experiment.measure import describe

INSTRUCTIONS = (
    "avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16",  # x86
    "neon", "bf16", "sve", "sve2", "sme",  # ARM
)  # fmt: skip


def alternate(
    tasks: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, warm: int = 1, wall: bool = False
) -> dict[str, float]:
    """Median seconds of each task, run in turn.

    Args:
        device: on the CPU the time is the CPU time of this process, elsewhere wall time with the device waited for.
        repeats: timed turns.
        warm: turns before them, which are not counted.
        wall: wall time on the CPU too, where a task waits for files or other threads.
    """
    clock = time.process_time if device.type == "cpu" and not wall else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(warm + repeats):
        for name, task in tasks.items():
            wait_for(device)
            begin = clock()
            task()
            wait_for(device)
            if turn >= warm:
                times[name].append(clock() - begin)
    return {name: median(values) for name, values in times.items()}


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def provenance(device: torch.device, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Of a record: date, revision, machine with the instruction sets that matter, threads, and versions, also of `packages`."""
    revision, dirty = code_revision()
    has = torch.cpu.get_capabilities()
    instructions = [name for name in INSTRUCTIONS if has.get(name) is True]
    machine = describe(device, "bf16") | {"cores": usable_cores(), "instructions": instructions}
    versions = {"python": platform.python_version(), **library_versions()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"date": utc_now(), "revision": revision, "uncommitted": dirty, "machine": machine,
            "threads": torch.get_num_threads(), "versions": versions | {"torch": torch.__version__}}  # fmt: skip
