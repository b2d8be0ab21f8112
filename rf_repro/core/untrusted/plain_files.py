"""Files of others are opened here: plain files alone, of at most so many bytes. A named pipe, a device or a folder is refused."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.problems import shown


def open_plain(path: Path, missing: str = "no such file") -> BinaryIO:
    """The file, open for reading.

    Args:
        missing: what is said of a file that is not there.

    Raises:
        UserError: it is not there, cannot be opened, or is no plain file; nothing waits for a named pipe's other end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character, or half a surrogate pair, in the name
        raise UserError(f"{shown(path)}: cannot be read ({reason(error)}); name a plain file that you may read") from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise UserError(f"{path}: is {'a folder' if stat.S_ISDIR(kind) else 'a pipe or a device'}; name a plain file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int, missing: str = "no such file") -> bytes:
    """A plain file's content.

    Args:
        most: bytes that it may have.
        missing: what is said of a file that is not there.

    Raises:
        UserError: as `open_plain`, or it is larger.
    """
    with open_plain(path, missing) as file:
        try:
            size = os.fstat(file.fileno()).st_size  # memory for as much as it has, not for the most that it may have
            data = file.read(min(size, most) + 1)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({reason(error)}); copy it here again") from None
    if len(data) > most:
        raise UserError(f"{path}: has more than {most:,} bytes, the most that is read; is it the right file?")
    return data


def read_text(path: Path, most: int, missing: str = "no such file") -> str:
    """A plain file's UTF-8 text, without the mark that some editors put first.

    Raises:
        UserError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most, missing).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 near byte {error.start}; save it as UTF-8") from None


def reason(error: Exception) -> str:
    """Of an error of the operating system, in one line."""
    return shown(getattr(error, "strerror", None) or error)
