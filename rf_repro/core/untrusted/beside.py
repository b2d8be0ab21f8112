"""Files that another file names, by a path relative to its own folder."""

import os
import stat
from pathlib import Path

from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, CorruptSample, shown


def read_beside(folder: Path, name: str, what: str) -> bytes:
    """A plain file within `folder` (resolved), of at most MAX_IMAGE_BYTES.

    Raises:
        CorruptSample: it is not there, is not a plain file, is too large, or lies elsewhere (by `..`, an absolute path, a link).
    """
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise CorruptSample(f"{what} {shown(name)!r} leaves the shard's folder")
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise CorruptSample(f"{what} {shown(name)!r} leaves the shard's folder by a link")
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise CorruptSample(f"{what} {shown(name)!r} is not a plain file")
            if status.st_size > MAX_IMAGE_BYTES:
                raise CorruptSample(f"{what} {shown(name)!r} has {status.st_size} bytes; at most {MAX_IMAGE_BYTES} are read")
            return os.pread(file, status.st_size, 0)
        finally:
            os.close(file)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: not a file system's text
        raise CorruptSample(f"{what} {shown(name)!r} cannot be read ({shown(getattr(error, 'strerror', '') or error)})") from None
