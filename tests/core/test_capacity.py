"""Cores and memory, by files of a system that is made here."""

import os
from pathlib import Path

import pytest

from rf_repro.core import capacity
from rf_repro.core.capacity import usable_bytes, usable_cores

CORES = 8


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(capacity, "SYSTEM", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)), raising=False)
    write(tmp_path / "proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_all_is_ours(system: Path) -> None:
    assert usable_cores() == CORES
    assert usable_bytes() == 8 * 2**30


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", CORES), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1)]
)
def test_a_containers_quota_counts(system: Path, quota: str, cores: int) -> None:
    write(system / "proc/self/cgroup", "0::/\n")
    write(system / "sys/fs/cgroup/cpu.max", quota + "\n")
    write(system / "sys/fs/cgroup/memory.max", f"{2**30}\n")
    assert usable_cores() == cores
    assert usable_bytes() == 2**30


def test_the_tightest_of_the_groups_around_it_counts(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/slurm/job/step\n")
    group = system / "sys/fs/cgroup/slurm"
    write(group / "cpu.max", "300000 100000")
    write(group / "job/step/cpu.max", "max 100000")
    write(group / "job/memory.max", f"{3 * 2**30}")
    write(group / "job/step/memory.max", "max")
    assert usable_cores() == 3
    assert usable_bytes() == 3 * 2**30


def test_version_1_of_control_groups_too(system: Path) -> None:
    write(system / "proc/self/cgroup", "5:cpu,cpuacct:/box\n6:memory:/box\n")
    write(system / "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "400000")
    write(system / "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000")
    write(system / "sys/fs/cgroup/memory/box/memory.limit_in_bytes", str(2**31))
    assert usable_cores() == 4
    assert usable_bytes() == 2**31
    write(system / "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1")
    assert usable_cores() == CORES


def test_a_system_without_such_files_is_asked_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "SYSTEM", tmp_path)
    assert usable_cores() >= 1
    assert usable_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
