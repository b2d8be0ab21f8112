"""Files that are never half-written: content goes to a temporary name beside the target and is renamed when complete."""

import fcntl
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.reading import read_json as read_json  # those who write read too
from rf_repro.core.reading import read_jsonl as read_jsonl
from rf_repro.core.reading import read_object as read_object


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
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private; records are for colleagues too
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error}); free space or choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`; when the block ends without an error it takes the place of whatever folder is there.

    Raises:
        UserError: as of `atomic_path`.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error}); free space or choose another folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already where it became `path`


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left of `atomic_path` below a folder, and nothing that another one still writes."""
    for path in folder.rglob(".*.tmp"):
        with suppress(OSError), open(path, "rb") as file:  # it was renamed meanwhile, it is a folder, or a lock is held on it
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
