"""What a Parquet file really holds: its footer, and what the pages of its columns declare, before anything is decompressed.

A footer may understate what its pages expand to, and Arrow allocates what a page's own header says.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rf_repro.data.shards.samples import shown
from rf_repro.data.shards.thrift import Reader

MAX_FOOTER_BYTES = 32 << 20
MAX_VALUES = 20_000_000  # of one column in one row group, nulls and list items included
MAX_HEADER_BYTES = 1 << 20  # of a page
FIRST_WINDOW = 4096  # bytes read for a page's header; most are far smaller

BYTE_ARRAY = 6  # physical type
DICTIONARIES = (2, 8)  # encodings PLAIN_DICTIONARY, RLE_DICTIONARY
DELTA_BYTE_ARRAY = 7  # encoding: values share prefixes, so that a small page may expand to anything

# Fields of parquet.thrift: FileMetaData, with its schema elements, row groups, column chunks and their metadata; PageHeader.
_SCHEMA_ELEMENT = {1: int, 4: bytes, 5: int}
_CHUNK = {5: int, 6: int, 7: int, 9: int, 11: int}
_FOOTER = {2: [_SCHEMA_ELEMENT], 4: [{1: [{3: _CHUNK}], 3: int}]}
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_PAGE = {2: int, 3: int, _DATA: {1: int, 2: int}, _DICTIONARY: {1: int}, _DATA_V2: {1: int, 4: int}}


@dataclass(frozen=True)
class Leaf:
    """A column of values: the names from the schema's top down to it, and its physical type."""

    path: tuple[str, ...]
    kind: int


@dataclass(frozen=True)
class Chunk:
    """One leaf column of one row group, as the footer declares it; bytes are of the needed part of the file."""

    start: int
    num_bytes: int
    num_values: int
    expanded_bytes: int


@dataclass(frozen=True)
class Footer:
    leaves: list[Leaf]
    rows: list[int]  # of each row group
    chunks: list[list[Chunk]]  # of each row group, one a leaf


def read_footer(path: Path) -> Footer:
    """
    Raises:
        ValueError: no footer, one that is too large to be read safely, or a damaged one.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - 8, 0))
        end = file.read(8)
        if end[4:] != b"PAR1":
            raise ValueError("does not end as a Parquet file: cut off, encrypted or another format")
        if (length := int.from_bytes(end[:4], "little")) > MAX_FOOTER_BYTES:
            raise ValueError(f"has a footer of {length} bytes; at most {MAX_FOOTER_BYTES} are read")
        file.seek(max(size - 8 - length, 0))
        data = file.read(length)
    try:
        fields = Reader(data).struct(_FOOTER)
        leaves = _leaves(fields[2])
        groups = fields.get(4, [])
        chunks = [[_chunk(column[3]) for column in group[1]] for group in groups]
        rows = [int(group[3]) for group in groups]
    except (IndexError, KeyError, ValueError):
        raise ValueError("its footer is damaged") from None
    if any(len(group) != len(leaves) for group in chunks) or any(count < 0 for count in rows):
        raise ValueError("its footer is damaged")
    return Footer(leaves, rows, chunks)


def _leaves(elements: list[dict[int, Any]]) -> list[Leaf]:
    """The schema's tree is stored depth first, its root first."""
    leaves: list[Leaf] = []
    paths: list[tuple[str, ...]] = [()]  # of the groups above, and how many children each still has
    children = [elements[0].get(5, 0)]
    for element in elements[1:]:
        while children[-1] == 0:
            paths.pop()
            children.pop()
        children[-1] -= 1
        path = (*paths[-1], element[4].decode("utf-8"))
        if element.get(5):
            paths.append(path)
            children.append(element[5])
        else:
            leaves.append(Leaf(path, element[1]))
    return leaves


def _chunk(fields: dict[int, int]) -> Chunk:
    start = fields[9]
    if 0 < fields.get(11, 0) < start:  # a dictionary comes first
        start = fields[11]
    return Chunk(start, fields[7], fields[5], fields[6])


def check_pages(file: BinaryIO, chunk: Chunk, max_bytes: int) -> bool:
    """Whether pages of a column chunk name values of a dictionary by number.

    Raises:
        ValueError: they would expand beyond the limits, or are damaged.
    """
    start, stop = chunk.start, chunk.start + chunk.num_bytes + 100  # Arrow allows old writers so much padding
    stop = min(stop, os.fstat(file.fileno()).st_size)
    values, expanded, numbered = 0, 0, False
    while values < chunk.num_values and 0 <= start < stop:
        page, length = _read_header(file, start)
        size, compressed = page.get(2, -1), page.get(3, -1)
        if size < 0 or compressed < 0:
            raise ValueError("a page header is damaged")
        expanded += size
        for kind in page.keys() & {_DATA, _DICTIONARY, _DATA_V2}:
            count, encoding = page[kind].get(1, -1), page[kind].get(4 if kind == _DATA_V2 else 2)
            if not 0 <= count <= MAX_VALUES:
                raise ValueError(f"a page declares {count} values; at most {MAX_VALUES} are read")
            if encoding == DELTA_BYTE_ARRAY:
                raise ValueError("the encoding DELTA_BYTE_ARRAY is not read; write it PLAIN or by dictionary")
            values += count if kind != _DICTIONARY else 0
            numbered = numbered or encoding in DICTIONARIES
        if expanded > max_bytes or values > MAX_VALUES:
            raise ValueError(
                f"expands to {expanded} bytes and {values} values or more; at most {max_bytes} and {MAX_VALUES} are read, so "
                "write smaller row groups"
            )
        start += length + compressed
    return numbered


def _read_header(file: BinaryIO, start: int) -> tuple[dict[int, Any], int]:
    """The page header at a byte, and its length."""
    window = FIRST_WINDOW
    while True:
        file.seek(start)
        reader = Reader(data := file.read(window))
        try:
            return reader.struct(_PAGE), reader.position
        except ValueError as error:
            raise ValueError(f"a page header is damaged ({shown(error)})") from None
        except IndexError:
            if len(data) < window or window >= MAX_HEADER_BYTES:
                raise ValueError("a page header is cut off") from None
            window *= 16
