"""Thrift's compact protocol, as far as Parquet's metadata needs it: chosen fields of nested structs, everything else skipped.

Pyarrow's own view of this metadata ends the process where damaged statistics are in it (an exception of C++ that nobody
catches, as of version 26), so shards from strangers are looked at with this.
"""

from collections.abc import Mapping
from typing import Any

# Field number -> int, bytes (texts too), the fields of a struct, or in a list of one those of a list of structs.
Fields = Mapping[int, Any]

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 16


class Reader:
    """A position in bytes. Reading past the end raises IndexError, anything else that is wrong ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def struct(self, wanted: Fields, depth: int = 0) -> dict[int, Any]:
        """The wanted fields that are there."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._zigzag()
            if number in wanted:
                found[number] = self._value(kind, wanted[number], depth)
            elif kind not in (_TRUE, _FALSE):  # these have no bytes: the type is the value
                self._skip(kind, depth)
        return found

    def _value(self, kind: int, wanted: Any, depth: int) -> Any:
        if kind in (_I16, _I32, _I64) and wanted is int:
            return self._zigzag()
        if kind == _BINARY and wanted is bytes:
            start = self._advance(self._varint())
            return self.data[start : self.position]
        if kind == _STRUCT and isinstance(wanted, Mapping):
            return self.struct(wanted, depth + 1)
        if kind == _LIST and isinstance(wanted, list):
            count, item = self._list_head()
            return [self._value(item, wanted[0], depth + 1) for _ in range(count)]
        raise ValueError("a field of an unexpected type")

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if kind in (_TRUE, _FALSE, _BYTE):  # of a list: one byte each
            self._advance(1)
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind in (_DOUBLE, _BINARY):
            self._advance(8 if kind == _DOUBLE else self._varint())
        elif kind in (_LIST, _SET):
            count, item = self._list_head()
            for _ in range(count):
                self._skip(item, depth + 1)
        elif kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._skip(kinds >> 4, depth + 1)
                self._skip(kinds & 15, depth + 1)
        elif kind == _STRUCT:
            self.struct({}, depth + 1)
        else:
            raise ValueError(f"a field of the unknown type {kind}")

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4
        return (self._varint() if count == 15 else count), head & 15

    def _byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def _advance(self, count: int) -> int:
        """Skips bytes; where they start."""
        start = self.position
        self.position += count
        if self.position > len(self.data):
            raise IndexError
        return start

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
