"""Shards as strangers may write them, and how tests read them."""

import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rf_repro.config.data_schema import SourceConfig
from rf_repro.data.shards import CorruptSample, RawSample, read_shard, shard_length
from rf_repro.data.shards.export import encode_png

PNG = encode_png(np.zeros((4, 4, 3), np.uint8))
FORMATS: dict[str, Literal["webdataset", "parquet", "jsonl"]] = {
    ".tar": "webdataset", ".parquet": "parquet", ".arrow": "parquet", ".jsonl": "jsonl",
}  # fmt: skip


def read(path: Path, task: str = "generation", **columns: str) -> list[str]:
    """Of each sample its text, or what is wrong with it. Every order gives the same, as many as the length says."""
    given = SourceConfig("some", str(path), FORMATS[path.suffix], task, **columns)  # type: ignore[arg-type]
    found = list(read_shard(path, given))
    assert len(found) == shard_length(path, given)
    backwards = list(read_shard(path, given, range(len(found))[::-1]))[::-1]
    assert [sample if isinstance(sample, RawSample) else str(sample) for sample in found] == [
        sample if isinstance(sample, RawSample) else str(sample) for sample in backwards
    ]
    for sample in found:
        assert isinstance(sample, RawSample) or (str(sample).startswith(path.name) and len(str(sample).splitlines()) == 1)
        assert isinstance(sample, CorruptSample) or task == "text" or sample.image == PNG
    return [sample.text if isinstance(sample, RawSample) else str(sample).removeprefix(path.name) for sample in found]


def header(name: str, size: int | bytes, kind: bytes = b"0", **fields: Any) -> bytes:
    """A valid tar header that declares any size."""
    entry = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(entry, key, value)
    data = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    data[124:136] = size if isinstance(size, bytes) else f"{size:011o}\0".encode()
    data[156:157] = kind
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data):06o}\0 ".encode()
    return bytes(data)


def member(name: str, data: bytes, kind: bytes = b"0", **fields: Any) -> bytes:
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % 512)


def pair(name: str) -> bytes:
    return member(f"{name}.png", PNG) + member(f"{name}.txt", name.encode())


def table(num: int = 300) -> pa.Table:
    return pa.table({"image": [PNG] * num, "text": [f"text {i}" for i in range(num)]})


END = bytes(1024)
GOOD = pair("good")
HUGE = b"\x80" + b"\x7f" + bytes(10)  # about 2**86 bytes
