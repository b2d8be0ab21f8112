"""Standard streams that cannot end the work: closed ones, and readers that leave.

Results are in files, so what matters of a run is its exit status. A reader that has left (`| head`, a terminal that was closed)
wants no more output. A full disk is another matter: who sends results to a file wants them.
"""

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STREAMS = ("stdin", "stdout", "stderr")  # by file descriptor
STDERR = 2


def keep_streams() -> None:
    """Opens closed standard streams on the null device, so that no other file gets their numbers, and guards the others."""
    for number, name in enumerate(STREAMS):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number: that of the stream
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, "w" if number else "r"))
    if sys.stdout is sys.__stdout__:  # nobody has put another in its place
        sys.stdout = _guarded(sys.__stdout__, "standard output")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.__stderr__, None)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without that library's progress bar and its table of weights that were not used: whoever loads them says so."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Nothing reaches standard error in the block, of C code and of other processes neither. Exceptions pass."""
    sys.stderr.flush()
    kept, null = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDERR)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(null)


class _Outlet(io.FileIO):
    """A file descriptor that goes quiet when its reader leaves."""

    def __init__(self, stream: TextIO, needed: str | None) -> None:
        super().__init__(stream.fileno(), "w", closefd=False)
        self.needed, self.is_device = needed, stat.S_ISCHR(os.fstat(self.fileno()).st_mode)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Raises OSError where the output is needed and has a reader, but cannot be written: it names the stream, once."""
        try:
            return super().write(data)
        except OSError as error:
            # A terminal that went away answers EIO, and is no terminal any more; a broken disk answers so too.
            left = isinstance(error, ConnectionError) or (error.errno == errno.EIO and self.is_device)
            if left or self.needed:
                self._go_quiet()
            if self.needed and not left:
                reason = f"cannot write ({error.strerror}); free space or send it elsewhere"
                raise OSError(error.errno, reason, self.needed) from None
        return memoryview(data).nbytes

    def _go_quiet(self) -> None:
        """For what C code and other processes write here too."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def _guarded(stream: TextIO | None, needed: str | None) -> TextIO:
    """The stream as Python made it, its descriptor guarded. `needed`: its name, where what cannot be written is an error."""
    assert isinstance(stream, io.TextIOWrapper)
    outlet = _Outlet(stream, needed)
    buffer = io.BufferedWriter(outlet) if isinstance(stream.buffer, io.BufferedWriter) else outlet  # python -u has no buffer
    return io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=stream.write_through
    )
