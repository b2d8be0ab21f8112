"""One process at a time works on a run directory. The kernel frees the lock however its holder ends, SIGKILL included."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rf_repro.core.errors import UserError

PROBE_GRACE = 1.0  # seconds; `lock_holder` holds the lock for microseconds while it looks


@contextmanager
def run_lock(run: Path, patience: float = PROBE_GRACE) -> Iterator[None]:
    """Holds `<run>/.lock` for the block. The file stays behind; only the kernel's lock on it counts.

    Args:
        patience: seconds to wait for it.

    Raises:
        UserError: another process holds it; the line names its pid and host.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + patience
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid, _, host = os.pread(file, 256, 0).decode().strip().partition(" ")
                raise UserError(f"{run}: another process (pid {pid} on {host}) works on it; wait for it or stop it first")
            time.sleep(0.02)
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
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
    return int((os.pread(file, 256, 0).split() or [b"0"])[0])
