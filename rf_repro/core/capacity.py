"""How much of this machine is ours: cores and memory, also in a container or under a scheduler."""

import os
from pathlib import Path

SYSTEM = Path("/")


def usable_cores() -> int:
    """Cores by affinity, and by the CPU time that the control groups around this process grant, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas, periods = _control_groups("cpu", "cpu.cfs_quota_us"), _control_groups("cpu", "cpu.cfs_period_us")
    granted = [*map(str.split, _control_groups("cpu", "cpu.max")), *zip(quotas, periods, strict=True)]
    return min([cores, *(max(1, -(-int(quota) // int(period))) for quota, period in granted if quota not in ("max", "-1"))])


def usable_bytes() -> int:
    """Memory that is free or can be freed, or that the control groups around this process grant: the least of them."""
    try:
        lines = (SYSTEM / "proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    found = found or [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits = _control_groups("memory", "memory.max") + _control_groups("memory", "memory.limit_in_bytes")
    return min([*found, *(int(limit) for limit in limits if limit != "max")])


def _control_groups(controller: str, name: str) -> list[str]:
    """The text of a file of each control group around this process: of version 2, or of version 1's controller."""
    texts, root, own = [], SYSTEM / "sys/fs/cgroup", SYSTEM / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        group = top / path.strip("/")
        files = [folder / name for folder in (group, *group.parents) if folder.is_relative_to(top)]
        texts += [file.read_text().strip() for file in files if file.is_file()]
    return texts
