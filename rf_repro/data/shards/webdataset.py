"""Tar shards: webdataset's layout, read by position and never unpacked.

Neighbouring members whose paths agree up to the first dot of the file name make a sample; what follows the dot is the member's
name within it. Headers are read here and not by `tarfile`, because it reads as much for a long name as the file declares, and
the reader of the `webdataset` package unpickles members.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, MAX_RECORD_BYTES, CorruptSample, shown
from rf_repro.data.shards.records import columns_of, decode_text, parse_json

BLOCK = 512
MAX_MEMBERS = 1_000_000  # a shard; more would fill memory with their index alone
MAX_NAME_BYTES = 1 << 16  # of a long name or an extended header
IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp")
PICKLED = ("pyd", "pickle", "pkl", "pth", "pt")
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x04\x22\x4d\x18": "lz4"}
KINDS = {b"1": "a hard link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a named pipe", b"S": "a sparse file"}
NAME = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)  # as webdataset's: the first dot of the file's own name


@dataclass(frozen=True)
class Member:
    name: str  # after the dot, lower case
    offset: int  # bytes into the shard
    size: int  # bytes
    problem: str = ""  # why it must not be read


@dataclass
class TarIndex:
    """Where everything is: the members of each sample, and what is wrong from some byte on."""

    samples: list[list[Member]] = field(default_factory=list)
    damage: str = ""


class TarShard:
    """One open tar file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, source: SourceConfig) -> None:
        self.source = source
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe must not block
        try:
            self._index = read_index(self._file)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._index.samples)

    @property
    def damage(self) -> str:
        return self._index.damage

    def close(self) -> None:
        os.close(self._file)

    def record(self, index: int) -> dict[str, Any]:
        """Keys of the member `json`, and the members that may hold text. Raises CorruptSample."""
        members = self._members(index)
        found: dict[str, Any] = {}
        if "json" in members:
            value = parse_json(self._read(members["json"], MAX_RECORD_BYTES), "member json")
            if not isinstance(value, dict):
                raise CorruptSample(f"member json is {type(value).__name__}, not an object")
            found |= value
        for name in columns_of(self.source):
            if name in members and name != "json":
                self._refuse_pickled(name)
                found[name] = decode_text(self._read(members[name], MAX_RECORD_BYTES), f"member {shown(name)}")
        # What else there is, so that a message can name it.
        return found | {name: None for name in members if name not in found}

    def image(self, index: int) -> bytes:
        """The encoded image. Raises CorruptSample."""
        members = self._members(index)
        wanted = (self.source.image_column.lower(),) if self.source.image_column else IMAGE_MEMBERS
        present = [name for name in wanted if name in members]
        if len(present) != 1:
            problem = f"has {len(present)} images ({', '.join(present)}); name one by image_column"
            raise CorruptSample(problem if present else f"has no {' or '.join(map(shown, wanted))}; it has {_list(members)}")
        self._refuse_pickled(present[0])
        return self._read(members[present[0]], MAX_IMAGE_BYTES)

    def _members(self, index: int) -> dict[str, Member]:
        members: dict[str, Member] = {}
        for member in self._index.samples[index]:
            if member.problem:
                raise CorruptSample(f"member {shown(member.name)} {member.problem}")
            if member.name in members:
                raise CorruptSample(f"has two members {shown(member.name)}")
            members[member.name] = member
        return members

    def _refuse_pickled(self, name: str) -> None:
        if name.split(".")[-1] in PICKLED:
            raise CorruptSample(f"member {shown(name)} is pickled; stored objects are never unpickled")

    def _read(self, member: Member, limit: int) -> bytes:
        if member.size > limit:
            raise CorruptSample(f"member {shown(member.name)} declares {member.size} bytes; at most {limit} are read")
        data = _read_exactly(self._file, member.offset, member.size)
        if len(data) < member.size:
            raise CorruptSample(f"member {shown(member.name)} is cut off: {len(data)} of {member.size} bytes")
        return data


def _list(members: dict[str, Member]) -> str:
    names = ", ".join(shown(name) + (" (pickled, never read)" if name.split(".")[-1] in PICKLED else "") for name in members)
    return names + "; members of a sample must stand side by side"


def read_index(file: int) -> TarIndex:
    """Finds the samples of an open tar file from its headers alone."""
    index, previous = TarIndex(), None
    try:
        for number, (name, member) in enumerate(_members(file)):
            if number >= MAX_MEMBERS:
                index.damage = f"more than {MAX_MEMBERS} members; split the shard"
                break
            parts = NAME.fullmatch(name)
            if parts is None or _is_meta(name):
                previous = None if parts is None else previous
                continue
            if previous != parts[1]:
                index.samples.append([])
                previous = parts[1]
            problem = member.problem
            if name.startswith("/") or ".." in name.split("/"):
                problem = f"has a path that leaves the folder: {shown(name)}"
            index.samples[-1].append(Member(parts[2].lower(), member.offset, member.size, problem))
    except _Damaged as damage:
        index.damage = str(damage)
    return index


class _Damaged(Exception):
    """From here on the headers cannot be trusted."""


def _is_meta(name: str) -> bool:
    return "/" not in name and name.startswith("__") and name.endswith("__")


def _members(file: int) -> Iterator[tuple[str, Member]]:
    """(path, member without its name) of everything but folders, in the file's order.

    Raises:
        _Damaged: a header is cut off or wrong; what came before is good.
    """
    end, offset = os.fstat(file).st_size, 0
    start = os.pread(file, 8, 0)
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            raise _Damaged(f"compressed ({name}); samples are read by position, so decompress it to a plain .tar")
    if not start:
        raise _Damaged("empty file")
    long_name, size_override, sparse = "", -1, False
    while offset < end:
        header = os.pread(file, BLOCK, offset)
        if len(header) < BLOCK:
            raise _Damaged(f"cut off within the header at byte {offset}")
        if not header.rstrip(b"\0"):
            return
        _check_sum(header, offset)
        kind, size = header[156:157], _number(header[124:136], offset)
        offset += BLOCK
        if kind in (b"L", b"K", b"x", b"g", b"X"):
            if size > MAX_NAME_BYTES:
                raise _Damaged(f"declares {size} bytes of name or extended header at byte {offset}; at most {MAX_NAME_BYTES}")
            data = _read_exactly(file, offset, size)
            offset += _padded(size)
            if kind == b"L":
                long_name = data.split(b"\0", 1)[0].decode("utf-8", "replace")
            elif kind in (b"x", b"X"):
                fields = _extended(data, offset)
                long_name = fields.get("path", long_name)
                size_override = int(fields["size"]) if fields.get("size", "").isdecimal() else size_override
                sparse = any(key.startswith("GNU.sparse") for key in fields)
            continue
        name, size = long_name or _path(header), size if size_override < 0 else size_override
        odd = "a sparse file" if sparse else KINDS.get(kind, "")
        problem = f"is {odd}, not a plain one" if odd else ""
        long_name, size_override, sparse = "", -1, False
        if kind == b"S":
            offset = _skip_sparse_map(file, header, offset)
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            size = 0  # they have no data, whatever the header says
        if not problem and kind not in (b"0", b"\0", b"7", b"5"):
            problem = f"is of the unknown kind {shown(ascii(kind))}"
        if not problem and offset + size > end:
            problem = f"is cut off: {end - offset} of {size} bytes"
        if kind != b"5" and not name.endswith("/"):
            yield name, Member("", offset, size, problem)
        offset += _padded(size)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_sum(header: bytes, offset: int) -> None:
    """Raises _Damaged where the header's own sum, of bytes signed or not, is wrong."""
    blank = header[:148] + b" " * 8 + header[156:]
    expected = _number(header[148:156], offset)
    if expected != sum(blank) and expected != sum(struct.unpack("512b", blank)):
        raise _Damaged(f"no valid tar header at byte {offset}")


def _number(text: bytes, offset: int) -> int:
    """Octal digits, or base 256 after a byte 0x80."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.split(b"\0", 1)[0].strip() or b"0"
    if not all(48 <= digit < 56 for digit in digits):
        raise _Damaged(f"no valid tar header at byte {offset}")
    return int(digits, 8)


def _path(header: bytes) -> str:
    name, prefix = (part.split(b"\0", 1)[0].decode("utf-8", "replace") for part in (header[:100], header[345:500]))
    is_ustar = header[257:263] == b"ustar\0"
    return f"{prefix}/{name}" if prefix and is_ustar else name


def _extended(data: bytes, offset: int) -> dict[str, str]:
    """Records "length key=value\\n" of a pax header."""
    fields: dict[str, str] = {}
    start, stop = 0, len(data.rstrip(b"\0"))
    while start < stop:
        digits = data[start : start + 6].partition(b" ")[0]
        end = start + int(digits) if digits.isdigit() else stop + 1
        if not start + len(digits) + 1 < end <= stop:
            raise _Damaged(f"no valid extended header before byte {offset}")
        key, _, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        start = end
    return fields


def _skip_sparse_map(file: int, header: bytes, offset: int) -> int:
    """Old GNU sparse files have further blocks of their map before the data."""
    more = header[482] != 0
    while more:
        block = os.pread(file, BLOCK, offset)
        if len(block) < BLOCK:
            raise _Damaged(f"cut off within the header at byte {offset}")
        offset, more = offset + BLOCK, block[504] != 0
    return offset


def _read_exactly(file: int, offset: int, size: int) -> bytes:
    """`size` bytes, or as many as there are."""
    parts: list[bytes] = []
    while size > 0 and (part := os.pread(file, min(size, 1 << 30), offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
