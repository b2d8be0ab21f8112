"""Parquet and Arrow files as Hugging Face writes them: texts of all rows first, images of a row when they are asked for.

The readers are those of the training shards: what a file declares is checked before it is read, and nothing is unpickled.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from evaluators.understanding.record import Record
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.arrow import ArrowShard
from rf_repro.core.untrusted.columns import ChooseColumns, Columns, image_problem, text_problem
from rf_repro.core.untrusted.parquet import ParquetShard
from rf_repro.core.untrusted.problems import CorruptSample, shown

SUFFIXES = (".parquet", ".arrow")
OPEN_ERRORS = (OSError, ValueError, MemoryError, pa.ArrowException)


def text_columns(schema: pa.Schema) -> Columns:
    """All columns of texts, numbers, lists and mappings."""
    return Columns(_distinct([field.name for field in schema if not text_problem(field.type)]))


def image_columns(schema: pa.Schema) -> Columns:
    """All columns of images: struct<bytes, path>, or binary."""
    return _OptionalImages((), _distinct([field.name for field in schema if not image_problem(field.type)]))


class _OptionalImages(Columns):
    def image_bytes(self, columns: "pa.Table | pa.RecordBatch", row: int, name: str = "") -> bytes:
        """b"" where the row has no such image."""
        return super().image_bytes(columns, row, name) if columns[name or self.images[0]][row].is_valid else b""


def _distinct(names: list[str]) -> list[str]:
    """The names. Raises CorruptSample when one is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise CorruptSample(f"has the column {shown(name)} {names.count(name)} times")
    return names


def read_columns(path: Path, problems: list[str]) -> Iterator[Record]:
    """The rows of a file in its order; what cannot be read is told in `problems`.

    Raises:
        UserError: the file cannot be opened.
    """
    make: type[ParquetShard] | type[ArrowShard] = ArrowShard if path.suffix.lower() == ".arrow" else ParquetShard
    texts, images = _open(make, path, text_columns), _Images(make, path)
    try:
        for index in range(len(texts)):
            where = f"{shown(path.name)}:{index}"
            try:
                values = texts.record(index)
            except CorruptSample as problem:
                problems.append(f"{where}: {problem}")
                continue
            yield Record(where, "columns", values, partial(images.load, index))
        if texts.damage:
            problems.append(f"{shown(path.name)}: the rest of the file: {texts.damage}")
    finally:
        texts.close()


class _Images:
    """A file's image columns, opened when first asked for."""

    def __init__(self, make: type[ParquetShard] | type[ArrowShard], path: Path) -> None:
        self._make, self._path = make, path
        self._shard: ParquetShard | ArrowShard | None = None
        self._numbers: dict[int, str] = {}

    def load(self, index: int) -> dict[int, bytes]:
        """Raises CorruptSample, UserError or OSError."""
        if self._shard is None:
            self._shard = _open(self._make, self._path, image_columns)
            self._numbers = number_images(self._shard.columns.images)
        found = {number: self._shard.image(index, name) for number, name in self._numbers.items()}
        return {number: data for number, data in found.items() if data}


def number_images(names: Sequence[str]) -> dict[int, str]:
    """`image_1`, `image_2`, ... by their numbers; else the column `image`, or the only one there is, as number 1."""
    numbered = {int(match[1]): name for name in names if (match := re.fullmatch(r"image_([1-9])", name))}
    if numbered:
        return dict(sorted(numbered.items()))
    single = [name for name in names if name == "image"] or list(names[:1])
    return dict(enumerate(single, start=1))


def _open(make: type[ParquetShard] | type[ArrowShard], path: Path, choose: ChooseColumns) -> ParquetShard | ArrowShard:
    try:
        return make(path, choose)
    except (CorruptSample, *OPEN_ERRORS) as error:
        raise UserError(f"{path}: cannot be read ({shown(error)}); download it again") from None
