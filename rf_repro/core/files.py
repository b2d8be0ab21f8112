"""Files that are never half-written: content goes to a temporary name beside the target and is renamed when complete."""

import errno
import fcntl
import gzip
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.reading import read_json as read_json  # those who write read too
from rf_repro.core.reading import read_jsonl as read_jsonl
from rf_repro.core.reading import read_object as read_object

LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as `tempfile` names what `atomic_path` writes


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path; when the block ends without an error it replaces `path`, else it is removed.

    What a killed process leaves is a file `.NAME.*.tmp` that nobody holds a lock on: see `remove_leftovers`.

    Args:
        durable: flush to disk before the replacement, so that even a power cut leaves a whole file. Files that can be made
            again from others, many and small, do without; a killed process leaves them whole all the same.

    Raises:
        UserError: the folder cannot be written or the disk is full (nothing is left under `path`'s name).
    """
    path = Path(path)
    temporary: Path | None = None
    handle: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        with suppress(OSError):  # a file system without locks: what is left there stays
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        if durable:
            flush(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private; records are for colleagues too
        os.replace(temporary, path)
        if durable:
            flush(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error}); free space or choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def atomic_folder(path: Path, is_ours: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Yields a new folder beside `path`; when the block ends without an error it is on disk and takes `path`'s place.

    Args:
        is_ours: whether a file in a folder that is there, by its path below it, is one that such a block made. A folder that
            holds any other is left as it is.

    Raises:
        UserError: as of `atomic_path`, or what is at `path` may not be replaced: before the block.
    """
    path = Path(path)
    require_replaceable(path, is_ours)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        flush_folder(new)
        require_replaceable(path, is_ours)  # it may have been filled meanwhile
        try:
            if path.exists():
                path.rename(old)
            new.rename(path)
        except BaseException:  # interrupted too: what was there goes back
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        flush(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error}); free space or choose another folder") from error
    finally:
        if temporary is not None and (path.exists() or not (temporary / "old").exists()):
            shutil.rmtree(temporary, ignore_errors=True)  # what cannot go only takes room; the one copy of what was there stays


def require_replaceable(path: Path, is_ours: Callable[[str], bool]) -> None:
    """Raises UserError unless nothing is at `path`, or a folder whose files are all ours and none of them a link."""
    if not (path.exists() or path.is_symlink()):
        return
    if path.is_symlink() or not path.is_dir():
        raise UserError(f"{path}: cannot write (it is {'a link' if path.is_symlink() else 'a file'}); move it away")
    for item in sorted(path.rglob("*")):
        name = item.relative_to(path).as_posix()
        if item.is_symlink() or not (item.is_dir() or (item.is_file() and is_ours(name))):
            raise UserError(f"{path}: holds {name}, which was not made here; move it away or choose another folder")


def flush(path: Path) -> None:
    """Puts a file's content, or the names in a folder, on the disk itself: a power cut loses none of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems flush files alone
            raise
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """`flush` of everything below a folder, and of itself."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            flush(path)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left of `atomic_path` below a folder, and nothing that another one still writes. No link is
    followed."""
    for path in folder.rglob(".*.tmp"):
        if not LEFTOVER.fullmatch(path.name):
            continue
        with suppress(OSError):  # it was renamed meanwhile, or a lock is held on it
            if not stat.S_ISREG(path.lstat().st_mode):
                continue
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                path.unlink()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically. NaN is refused: a missing number is None with a reason, never NaN."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Appends one JSON object as a line, in a single write."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a whole JSON-lines file atomically; compressed, to the same bytes each time, where its name ends in `.gz`."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    if Path(path).suffix == ".gz":
        with atomic_path(path) as temporary:
            temporary.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    else:
        write_text(path, text)
