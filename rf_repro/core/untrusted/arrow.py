"""Arrow files (.arrow: IPC stream or file), as the `datasets` package stores them: rows by record batch from a memory map.

Messages are found one after the other; the footer of the file format repeats what they say and is not used. Compressed bodies
and dictionaries, which could expand to any size, are refused; `datasets` writes neither.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rf_repro.core.untrusted.columns import ChooseColumns
from rf_repro.core.untrusted.problems import CorruptSample, shown

MAX_MESSAGES = 1_000_000
READ_ERRORS = (pa.ArrowException, OSError, EOFError, ValueError, MemoryError, struct.error)
_MAGIC = b"ARROW1\0\0"
_RECORD_BATCH = 3  # header type of a message, as flatbuffers' union counts


class ArrowShard:
    """One open Arrow file.

    Args:
        choose: which columns of a schema are read.

    Attributes:
        columns: those chosen.
        damage: what is wrong with the rest of the file; "" if nothing.

    Raises:
        CorruptSample: not even its schema can be read, or it lacks a column.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, choose: ChooseColumns) -> None:
        self.damage = ""
        self._file = pa.memory_map(str(path), "r")
        try:
            self._file.seek(len(_MAGIC) if self._file.read(len(_MAGIC)) == _MAGIC else 0)
            try:
                message = pa.ipc.read_message(self._file)
                if message.type != "schema":  # pyarrow would read it as one, and crash
                    raise ValueError(f"it starts with a message of type {message.type}")
                self._schema = pa.ipc.read_schema(message)
            except READ_ERRORS as error:
                raise CorruptSample(f"no Arrow file ({shown(error)})") from None
            self.columns = choose(self._schema)
            self._offsets, rows = self._find_batches()
        except BaseException:
            self.close()
            raise
        self._starts = np.cumsum([0, *rows])
        self._last: tuple[int, pa.RecordBatch | CorruptSample] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        self._file.close()

    def record(self, index: int) -> dict[str, Any]:
        """Text columns of a row. Raises CorruptSample."""
        return self.columns.record(*self._find(index))

    def image(self, index: int, name: str = "") -> bytes:
        """The encoded image of a row, of the image column of that name or else of the first. Raises CorruptSample."""
        return self.columns.image_bytes(*self._find(index), name)

    def _find_batches(self) -> tuple[list[int], list[int]]:
        """First byte and number of rows of each record batch; sets `damage` where messages end early."""
        offsets: list[int] = []
        rows: list[int] = []
        while len(offsets) < MAX_MESSAGES:
            offset = self._file.tell()
            try:
                message = pa.ipc.read_message(self._file)
            except EOFError:
                return offsets, rows
            except READ_ERRORS as error:
                self.damage = f"damaged from byte {offset} on ({shown(error)})"
                return offsets, rows
            try:
                count = _batch_rows(message)
            except READ_ERRORS as error:
                self.damage = f"damaged from byte {offset} on ({shown(error)})"
                return offsets, rows
            # A row has at least its texts' offsets: a count that lies would have its reader allocate an order of so many.
            if count > max(message.body.size, 1):
                self.damage = f"damaged from byte {offset} on (a batch declares {count} rows, more than it can hold)"
                return offsets, rows
            offsets.append(offset)
            rows.append(count)
        self.damage = f"more than {MAX_MESSAGES} record batches; split the shard"
        return offsets, rows

    def _find(self, index: int) -> tuple[pa.RecordBatch, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        if self._last is None or self._last[0] != number:
            self._last = number, self._read(number)
        batch = self._last[1]
        if isinstance(batch, CorruptSample):
            raise batch
        return batch, index - int(self._starts[number])

    def _read(self, number: int) -> pa.RecordBatch | CorruptSample:
        try:
            self._file.seek(self._offsets[number])
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self._schema)
            batch = batch.select(self.columns.needed)
            batch.validate(full=True)  # offsets that point outside would crash the process
        except READ_ERRORS as error:
            return CorruptSample(f"record batch {number} cannot be read ({shown(error)})")
        return batch


def _batch_rows(message: Any) -> int:
    """Rows of a record batch, from the message's flatbuffer.

    Raises:
        ValueError: another kind of message, or a compressed body.
        struct.error: the flatbuffer points outside itself.
    """
    data = message.metadata.to_pybytes()
    root = struct.unpack_from("<I", data)[0]
    kind = _field(data, root, 1)
    if kind is None or data[kind] != _RECORD_BATCH:
        raise ValueError(f"a message of type {message.type!r}; only record batches are read, without dictionaries")
    header = _field(data, root, 2)
    if header is None:
        raise ValueError("a message without content")
    batch = header + struct.unpack_from("<I", data, header)[0]
    if _field(data, batch, 3) is not None:
        raise ValueError("compressed; write it without compression")
    length = _field(data, batch, 0)
    rows = 0 if length is None else struct.unpack_from("<q", data, length)[0]
    if rows < 0:
        raise ValueError(f"{rows} rows")
    return int(rows)


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Where a field of a flatbuffer's table lies; None if it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise ValueError("a damaged message")
    place = 4 + 2 * slot
    if place >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + place)[0]
    return table + offset if offset and table + offset < len(data) else None
