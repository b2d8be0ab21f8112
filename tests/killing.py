"""Work that is killed in the midst of it: by SIGKILL, in a process of its own, at a moment that the test chooses."""

import os
import signal
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from tests.train.processes import CONTEXT, start_processes_as_usual
from tests.waiting import SECONDS


def kill_at(pattern: str, times: int, work: Callable[..., object], *arguments: object) -> None:
    """Runs `work(*arguments)` until it is about to open a path like `pattern` for writing, or to rename a file to one, for the
    so many `times`.

    Args:
        pattern: as of `fnmatch`, whose * includes slashes.
        work: importable by name.
    """
    process = CONTEXT.Process(target=_until, args=(pattern, times, work, arguments))
    process.start()
    process.join(SECONDS)
    status = process.exitcode
    process.kill()
    assert status == -signal.SIGKILL, f"{pattern} did not come {times} times: exit status {status}"


def _until(pattern: str, times: int, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    start_processes_as_usual()
    left = times

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.rename" or (event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)):
            path = given[event == "os.rename"]
            left -= isinstance(path, str | os.PathLike) and fnmatch(os.fspath(path), pattern)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work(*arguments)
