"""Parquet and Arrow files as Hugging Face writes them: texts of all rows first, images of a row when they are asked for.

The readers are those of the training shards: what a file declares is checked before it is read, and nothing is unpickled.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from evaluators.understanding.record import Record
from rf_repro.core.errors import UserError
from rf_repro.data.shards.arrow import ArrowShard
from rf_repro.data.shards.columns import Columns, image_problem, text_problem
from rf_repro.data.shards.parquet import ParquetShard
from rf_repro.data.shards.samples import CorruptSample, shown

SUFFIXES = (".parquet", ".arrow")
OPEN_ERRORS = (OSError, ValueError, MemoryError, pa.ArrowException)


class TextColumns(Columns):
    """All columns of texts, numbers, lists and mappings; others are not needed."""

    def __init__(self, schema: pa.Schema) -> None:
        self.texts = _distinct([field.name for field in schema if not text_problem(field.type)])
        self.image = ""


class ImageColumns(Columns):
    """All columns of images: struct<bytes, path>, or binary."""

    def __init__(self, schema: pa.Schema) -> None:
        self.texts = []
        self.images = _distinct([field.name for field in schema if not image_problem(field.type)])
        self.image = self.images[0] if self.images else ""

    @property
    def needed(self) -> list[str]:
        return self.images

    def needs(self, path: tuple[str, ...]) -> bool:
        return path[0] in self.images and path[1:] in ((), ("bytes",))

    def image_bytes(self, columns: "pa.Table | pa.RecordBatch", row: int, name: str = "") -> bytes:
        """b"" where the row has no such image."""
        return super().image_bytes(columns, row, name) if columns[name or self.image][row].is_valid else b""


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
    texts, images = _open(make, path, TextColumns), _Images(make, path)
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
            chosen: list[ImageColumns] = []

            def choose(schema: pa.Schema) -> ImageColumns:
                chosen.append(ImageColumns(schema))
                return chosen[-1]

            self._shard = _open(self._make, self._path, choose)
            self._numbers = number_images(chosen[-1].images)
        found = {number: self._shard.image(index, name) for number, name in self._numbers.items()}
        return {number: data for number, data in found.items() if data}


def number_images(names: list[str]) -> dict[int, str]:
    """`image_1`, `image_2`, ... by their numbers; else the column `image`, or the only one there is, as number 1."""
    numbered = {int(match[1]): name for name in names if (match := re.fullmatch(r"image_([1-9])", name))}
    if numbered:
        return dict(sorted(numbered.items()))
    single = [name for name in names if name == "image"] or names[:1]
    return dict(enumerate(single, start=1))


def _open(
    make: type[ParquetShard] | type[ArrowShard], path: Path, choose: Callable[[pa.Schema], Columns]
) -> ParquetShard | ArrowShard:
    try:
        return make(path, choose)
    except (CorruptSample, *OPEN_ERRORS) as error:
        raise UserError(f"{path}: cannot be read ({shown(error)}); download it again") from None
