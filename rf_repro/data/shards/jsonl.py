"""JSON lines beside image files: each line an object whose image is a path relative to the file's folder."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted.beside import read_beside
from rf_repro.core.untrusted.problems import MAX_RECORD_BYTES, CorruptSample, shown
from rf_repro.data.shards.records import IMAGE_COLUMN, parse_json

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
