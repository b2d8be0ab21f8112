"""JSON lines beside image files: each line an object whose image is a path relative to the file's folder."""

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from rf_repro.config.data_schema import SourceConfig
from rf_repro.data.shards.records import IMAGE_COLUMN, parse_json
from rf_repro.data.shards.samples import MAX_IMAGE_BYTES, MAX_RECORD_BYTES, CorruptSample, shown

CHUNK = 1 << 22  # bytes searched for line ends at a time
MAX_LINES = 20_000_000  # a shard; more would fill memory with their index alone


class JsonlShard:
    """One open file of JSON lines. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path, source: SourceConfig) -> None:
        self.column = source.image_column or IMAGE_COLUMN
        self.folder = path.absolute().parent.resolve()
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._lines, self.damage = np.zeros((0, 2), np.int64), ""
        try:
            if os.pread(self._file, 2, 0) == b"\x1f\x8b":
                self.damage = "compressed (gzip); lines are read by position, so decompress it"
            else:
                self._lines, self.damage = find_lines(self._file)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._lines)

    def close(self) -> None:
        os.close(self._file)

    def record(self, index: int) -> dict[str, Any]:
        """The line's object. Raises CorruptSample."""
        start, stop = self._lines[index].tolist()
        if stop - start > MAX_RECORD_BYTES:
            raise CorruptSample(f"line has {stop - start} bytes; at most {MAX_RECORD_BYTES} are read")
        value = parse_json(os.pread(self._file, stop - start, start), "line")
        if not isinstance(value, dict):
            raise CorruptSample(f"line is {type(value).__name__}, not an object")
        return value

    def image(self, index: int) -> bytes:
        """The encoded image from its file, which must lie in this file's folder. Raises CorruptSample."""
        name = self.record(index).get(self.column)
        if name is None:
            raise CorruptSample(f"has no {shown(self.column)}")
        if not isinstance(name, str):
            raise CorruptSample(f"{shown(self.column)} is {type(name).__name__}, not a path")
        return read_beside(self.folder, name, shown(self.column))


def find_lines(file: int) -> tuple[np.ndarray, str]:
    """First byte and end of each line that is not empty, int64 [N, 2], without the line's end; and what is wrong after them."""
    ends, offset, last, count, damage = [np.zeros(0, np.int64)], 0, b"", 0, ""
    while chunk := os.pread(file, CHUNK, offset):
        ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + offset)
        offset, last, count = offset + len(chunk), chunk[-1:], count + len(ends[-1])
        if count > MAX_LINES:
            damage = f"more than {MAX_LINES} lines; split the shard"
            break
    if last not in (b"", b"\n") and not damage:
        ends.append(np.array([offset]))
    stops = np.concatenate(ends)
    starts = np.concatenate([np.zeros(1, np.int64), stops[:-1] + 1])[: len(stops)]
    return np.stack([starts, stops], 1)[stops > starts], damage


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
