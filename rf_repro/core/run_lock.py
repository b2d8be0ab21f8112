"""One process at a time works on a run directory. The kernel frees the lock however its holder ends, SIGKILL included."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rf_repro.core.errors import UserError

PROBE_GRACE = 1.0  # seconds; `lock_holder` holds the lock for microseconds while it looks


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Holds `<run>/.lock` for the block. The file stays behind; only the kernel's lock on it counts.

    Raises:
        UserError: another process holds it; the line names its pid.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + PROBE_GRACE
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise UserError(f"{run}: another process (pid {_pid(file)}) works on it; wait for it or stop it first")
            time.sleep(0.02)
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def lock_holder(run: Path) -> int | None:
    """The pid of the process that works on the run, or None when nobody does. 0: it has not written its pid yet."""
    try:
        file = os.open(run / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(file, fcntl.LOCK_SH) else _pid(file)
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(file: int) -> int:
    return int(os.pread(file, 32, 0) or b"0")
