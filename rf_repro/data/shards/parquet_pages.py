"""What the pages of a Parquet column really declare, before anything is decompressed.

A file's footer may understate what its pages expand to, and Arrow allocates what a page's own header says. The headers are
Thrift structs in the compact protocol; only the few fields below are looked at.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_FOOTER_BYTES = 64 << 20
MAX_VALUES = 20_000_000  # of one column in one row group, nulls and list items included
MAX_HEADER_BYTES = 1 << 20
DELTA_BYTE_ARRAY = 7  # values share prefixes, so that a small page may expand to anything
FIRST_WINDOW = 4096  # bytes read for a header; most are far smaller

_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8  # fields of a page header: the struct of its kind
Struct = dict[int, Any]


@dataclass
class _Cursor:
    data: bytes
    position: int = 0

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


def check_footer(path: Path) -> None:
    """Raises ValueError where a file does not end as Parquet, or its footer is too large to be read safely."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - 8, 0))
        end = file.read(8)
    if end[4:] != b"PAR1":
        raise ValueError("does not end as a Parquet file: cut off, encrypted or another format")
    if (length := int.from_bytes(end[:4], "little")) > MAX_FOOTER_BYTES:
        raise ValueError(f"has a footer of {length} bytes; at most {MAX_FOOTER_BYTES} are read")


def check_pages(path: Path, chunk: Any, max_bytes: int) -> None:
    """Raises ValueError where the pages of a column chunk (pyarrow's metadata of it) would expand beyond the limits."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    stop, values, expanded = start + chunk.total_compressed_size + 100, 0, 0  # 100: padding that Arrow allows old writers
    where = f"column {chunk.path_in_schema!r}"
    with open(path, "rb") as file:
        stop = min(stop, os.fstat(file.fileno()).st_size)
        while values < chunk.num_values and 0 <= start < stop:
            page, length = _read_header(file, start)
            size, compressed = page.get(2), page.get(3)
            if not isinstance(size, int) or not isinstance(compressed, int) or size < 0 or compressed < 0:
                raise ValueError(f"{where}: a page header is damaged")
            expanded += size
            for kind in (_DATA, _DICTIONARY, _DATA_V2):
                inner = page.get(kind)
                if isinstance(inner, dict):
                    count = inner.get(1)
                    if not isinstance(count, int) or count < 0 or count > MAX_VALUES:
                        raise ValueError(f"{where}: a page declares {count} values; at most {MAX_VALUES} are read")
                    values += count if kind != _DICTIONARY else 0
                    if inner.get(4 if kind == _DATA_V2 else 2) == DELTA_BYTE_ARRAY:
                        raise ValueError(f"{where}: its encoding DELTA_BYTE_ARRAY is not read; write it PLAIN or by dictionary")
            if expanded > max_bytes or values > MAX_VALUES:
                raise ValueError(f"{where}: expands to {expanded} bytes and {values} values or more; at most {max_bytes} and "
                                 f"{MAX_VALUES} are read, so write smaller row groups")  # fmt: skip
            start += length + compressed


def _read_header(file: Any, start: int) -> tuple[Struct, int]:
    """The page header at a byte, and its length."""
    window = FIRST_WINDOW
    while True:
        file.seek(start)
        data = file.read(window)
        cursor = _Cursor(data)
        try:
            return _struct(cursor, 0), cursor.position
        except IndexError:
            if len(data) < window or window >= MAX_HEADER_BYTES:
                raise ValueError("a page header is cut off") from None
            window *= 16


def _struct(cursor: _Cursor, depth: int) -> Struct:
    """Field number -> value; of lists, sets and binaries nothing is kept."""
    if depth > 8:
        raise ValueError("a page header is nested too deeply")
    fields: Struct = {}
    number = 0
    while head := cursor.byte():
        delta, kind = head >> 4, head & 15
        number = number + delta if delta else cursor.zigzag()
        fields[number] = _value(cursor, kind, depth)
    return fields


def _value(cursor: _Cursor, kind: int, depth: int) -> Any:
    if kind in (1, 2):
        return kind == 1
    if kind == 3:
        return cursor.byte()
    if kind in (4, 5, 6):
        return cursor.zigzag()
    if kind in (7, 8):  # a double, or bytes with their length before them
        length = 8 if kind == 7 else cursor.varint()
        cursor.position += length
        if cursor.position > len(cursor.data):
            raise IndexError
        return None
    if kind == 12:
        return _struct(cursor, depth + 1)
    raise ValueError("a page header holds what Parquet's have not")  # they have no lists, sets or maps
