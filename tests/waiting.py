"""Waiting for other processes: for what they do, never for a time in which they should have done it."""

import subprocess
import time
from collections.abc import Callable

SECONDS = 600.0  # until what is waited for counts as never coming, on however busy a machine


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Returns when the condition holds; fails when the process, where one is given, has ended before."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None or condition(), f"it ended, status {process.poll()}"
        time.sleep(0.02)
