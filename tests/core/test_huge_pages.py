"""Large pages are asked for, and given where the system has them; a user's own wishes hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.core.huge_pages import ask_for_huge_pages

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
VARIABLES = ("GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE")
CHILD = """
import torch
kept = torch.ones(1 << 26)
print(sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")))
"""


def test_variables_are_set_beside_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    ask_for_huge_pages()
    ask_for_huge_pages()
    assert (os.environ["GLIBC_TUNABLES"], os.environ["THP_MEM_ALLOC_ENABLE"]) == ("glibc.malloc.hugetlb=1", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    ask_for_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    for name, own in (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0"), ("THP_MEM_ALLOC_ENABLE", "0")):
        monkeypatch.setenv(name, own)
        ask_for_huge_pages()
        assert os.environ[name] == own


@pytest.mark.skipif(
    not SWITCH.exists() or "[madvise]" not in SWITCH.read_text(), reason="here no process, or every one, has them"
)
@pytest.mark.parametrize("name", VARIABLES)
def test_a_process_that_is_started_then_has_large_pages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either way; 256 MB are asked for, and the system may have less of them free."""
    if name == "GLIBC_TUNABLES" and glibc() < (2, 35):
        pytest.skip("this C library does not know the tunable")
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    plain = dict(os.environ)
    ask_for_huge_pages()
    assert started(plain | {name: os.environ[name]}) > started(plain) + (100 << 10)


def started(environment: dict[str, str]) -> int:
    """Kilobytes in large pages of a process with a large tensor."""
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def glibc() -> tuple[int, ...]:
    version = os.confstr("CS_GNU_LIBC_VERSION") if hasattr(os, "confstr") else None
    return tuple(int(part) for part in re.findall(r"\d+", version or ""))[:2]
