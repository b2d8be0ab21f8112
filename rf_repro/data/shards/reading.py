"""Reading shards: any order of samples, of which the bad ones are named and never raise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted.arrow import ArrowShard
from rf_repro.core.untrusted.parquet import ParquetShard
from rf_repro.core.untrusted.problems import CorruptSample, shown
from rf_repro.data.shards.columns import source_columns
from rf_repro.data.shards.jsonl import JsonlShard
from rf_repro.data.shards.records import read_texts
from rf_repro.data.shards.samples import RawSample
from rf_repro.data.shards.webdataset import TarShard


class Shard(Protocol):
    """An open shard of any format. `damage` says what is wrong with the rest of it; "" if nothing."""

    @property
    def damage(self) -> str: ...
    def __len__(self) -> int: ...
    def record(self, index: int) -> dict[str, Any]: ...
    def image(self, index: int) -> bytes: ...
    def close(self) -> None: ...


READERS: dict[str, Callable[[Path, SourceConfig], Shard]] = {
    "webdataset": TarShard,
    "parquet": lambda path, source: ParquetShard(path, partial(source_columns, source)),
    "arrow": lambda path, source: ArrowShard(path, partial(source_columns, source)),
    "jsonl": JsonlShard,
}


def shard_length(path: Path, source: SourceConfig) -> int:
    """Samples of a shard, without reading them.

    The part of a damaged shard that cannot be found counts as one sample, as does a shard that cannot be opened at all.
    """
    try:
        with closing(_open(path, source)) as shard:
            return _length(shard)
    except CorruptSample:
        return 1


def read_shard(path: Path, source: SourceConfig, order: Sequence[int] | None = None) -> Iterator[RawSample | CorruptSample]:
    """Sample i of a shard for each i of `order`, by default all in the file's order.

    A sample that cannot be used is a CorruptSample in its place; so is the rest of a damaged shard, as one sample. Images are
    read one by one (Parquet: by row group), so that memory does not grow with the shard.

    Args:
        order: positions in [0, shard_length).
    """
    try:
        shard = _open(path, source)
    except CorruptSample as problem:
        for _ in [0] if order is None else order:
            yield problem
        return
    with closing(shard):
        for index in range(_length(shard)) if order is None else order:
            yield _read(shard, path, source, index)


def _open(path: Path, source: SourceConfig) -> Shard:
    """Raises CorruptSample, whatever is wrong."""
    kind = "arrow" if path.suffix.lower() == ".arrow" else source.format
    try:
        if not path.is_file():  # a pipe would have no end
            raise CorruptSample("is not there, or is no plain file")
        return READERS[kind](path, source)
    except CorruptSample as problem:
        raise CorruptSample(f"{shown(path.name)}: {problem}") from None
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise CorruptSample(f"{shown(path.name)}: cannot be opened ({shown(error)})") from None


def _length(shard: Shard) -> int:
    return len(shard) + bool(shard.damage)


def _read(shard: Shard, path: Path, source: SourceConfig, index: int) -> RawSample | CorruptSample:
    key = f"{shown(path.name)}:{index:06d}"
    if index == len(shard) and shard.damage:
        return CorruptSample(f"{key}: the rest of the shard: {shard.damage}")
    if not 0 <= index < len(shard):
        return CorruptSample(f"{key}: the shard has {len(shard)} samples; it changed while it was in use")
    try:
        text, turns = read_texts(shard.record(index), source)
        image = None if source.task == "text" else shard.image(index)
    except CorruptSample as problem:
        return CorruptSample(f"{key}: {problem}")
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:  # ValueError: a name in Arrow that is not UTF-8
        return CorruptSample(f"{key}: cannot be read ({shown(error)})")
    return RawSample(key, image, text, turns)
