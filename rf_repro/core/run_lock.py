"""One process at a time works on a run directory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rf_repro.core import file_lock
from rf_repro.core.errors import UserError


@contextmanager
def run_lock(run: Path, patience: float = file_lock.PROBE_GRACE) -> Iterator[None]:
    """Holds `<run>/.lock` for the block.

    Args:
        patience: seconds to wait for it.

    Raises:
        UserError: another process holds it; the line names its pid and host.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock.file_lock(run / ".lock", patience))
        except file_lock.Held as held:
            by = f"another process (pid {held.pid} on {held.host})"
            raise UserError(f"{run}: {by} works on it; wait for it or stop it first") from None
        yield


def lock_holder(run: Path) -> int | None:
    """The pid of the process that works on the run, or None when nobody does. 0: it has not written its pid yet."""
    return file_lock.lock_holder(run / ".lock")
