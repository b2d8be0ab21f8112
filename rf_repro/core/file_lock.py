"""One process at a time holds a lock file. The kernel frees it however its holder ends, SIGKILL included."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rf_repro.core.errors import UserError

PROBE_GRACE = 1.0  # seconds; `lock_holder` holds the lock for microseconds while it looks


class Held(Exception):
    """Another process holds the lock; its pid and host, as far as it has written them."""

    def __init__(self, pid: str, host: str) -> None:
        super().__init__(pid, host)
        self.pid, self.host = pid, host


@contextmanager
def file_lock(path: Path, patience: float = PROBE_GRACE) -> Iterator[None]:
    """Holds the lock on a file for the block. The file, made where there is none, stays behind; only the kernel's lock counts.

    Args:
        patience: seconds to wait for it.

    Raises:
        Held: after them another process holds it still.
        UserError: the file system has no locks, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); free space or choose another folder") from None
    try:
        deadline = time.monotonic() + patience
        while not _try_lock(file, fcntl.LOCK_EX, path):
            if time.monotonic() > deadline:
                pid, _, host = _read(file).partition(" ")
                raise Held(pid, host)
            time.sleep(0.02)
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def lock_holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, or None when nobody does. 0: it has not written its pid yet."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); delete it once nothing works there") from None
    try:
        if _try_lock(file, fcntl.LOCK_SH, path):
            return None
        pid = (_read(file).split() or ["0"])[0]
        return int(pid) if pid.isdecimal() and len(pid) < 20 else 0
    finally:
        os.close(file)


def _try_lock(file: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network and user-space file systems
        raise UserError(f"{path}: cannot be locked ({error.strerror}); use a folder on a file system with locks") from None
    return True


def _read(file: int) -> str:
    return os.pread(file, 256, 0).decode(errors="replace").strip()
