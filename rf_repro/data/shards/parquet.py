"""Parquet shards, as Hugging Face's: rows are read by row group, the last few of which are kept.

Any order is fast while row groups are small, as Hugging Face's of 100 images are: a row costs at most the reading of its group.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rf_repro.config.data_schema import SourceConfig
from rf_repro.data.shards.columns import ChooseColumns, choose_columns
from rf_repro.data.shards.parquet_pages import BYTE_ARRAY, check_pages, read_footer
from rf_repro.data.shards.samples import CorruptSample, shown

MAX_GROUP_BYTES = 1 << 30  # of one needed column in one row group, as decompressed
PLAUSIBLE_ROWS = 1_000_000  # even in a small file
KEPT_BYTES = 256 << 20  # of row groups kept in memory; the last one is kept whatever its size
READ_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, MemoryError)


class ParquetShard:
    """One open Parquet file.

    Args:
        source: whose columns are read, or what chooses columns of a schema.

    Raises:
        CorruptSample: it is damaged, or lacks a column.
        OSError: it cannot be opened.
    """

    damage = ""

    def __init__(self, path: Path, source: SourceConfig | ChooseColumns) -> None:
        self.path = path
        try:
            self._footer = read_footer(path)
        except ValueError as error:
            raise CorruptSample(str(error)) from None
        # A sample takes a byte at least; a count that lies would have its reader make an order of so many.
        if sum(self._footer.rows) > max(PLAUSIBLE_ROWS, path.stat().st_size):
            raise CorruptSample(f"declares {sum(self._footer.rows)} rows, more than it can hold")
        self._starts = np.cumsum([0, *self._footer.rows])
        with pq.ParquetFile(path) as file:
            self._metadata = file.metadata
            self._columns = choose_columns(file.schema_arrow, source)
        for name in self._columns.needed:
            if "." in name:
                raise CorruptSample(f"column {shown(name)}: a dot in a name cannot be told from nesting; rename it")
        self._leaves = [number for number, leaf in enumerate(self._footer.leaves) if self._columns.needs(leaf.path)]
        self._kept: OrderedDict[int, pa.Table | CorruptSample] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        self._kept.clear()  # files are open only while a row group is read

    def record(self, index: int) -> dict[str, Any]:
        """Text columns of a row. Raises CorruptSample."""
        return self._columns.record(*self._find(index))

    def image(self, index: int, name: str = "") -> bytes:
        """The encoded image of a row, of the image column of that name or else of the one there is. Raises CorruptSample."""
        return self._columns.image_bytes(*self._find(index), name)

    def _find(self, index: int) -> tuple[pa.Table, int]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        if group not in self._kept:
            self._keep(group)
        self._kept.move_to_end(group)
        table = self._kept[group]
        if isinstance(table, CorruptSample):
            raise table
        return table, index - int(self._starts[group])

    def _keep(self, group: int) -> None:
        coming = sum(self._footer.chunks[group][leaf].expanded_bytes for leaf in self._leaves)
        while self._kept and self._size_kept() + coming > KEPT_BYTES:
            self._kept.popitem(last=False)
        try:
            self._kept[group] = self._read(group)
        except CorruptSample as problem:
            self._kept[group] = problem

    def _size_kept(self) -> int:
        return sum(table.nbytes for table in self._kept.values() if isinstance(table, pa.Table))

    def _read(self, group: int) -> pa.Table:
        # Values that pages name by number stay so: written out, one large value could fill any memory.
        needed = [".".join(self._footer.leaves[leaf].path) for leaf in self._leaves]
        numbered = self._check_pages(group)
        try:
            with pq.ParquetFile(self.path, metadata=self._metadata, read_dictionary=numbered) as file:
                table = file.read_row_group(group, columns=needed, use_threads=False)
            table.validate(full=True)
        except READ_ERRORS as error:
            raise CorruptSample(f"row group {group} cannot be read ({shown(error)})") from None
        if table.num_rows != self._footer.rows[group]:
            raise CorruptSample(f"row group {group} has {table.num_rows} rows, {self._footer.rows[group]} are declared")
        return table

    def _check_pages(self, group: int) -> list[str]:
        """Leaf columns of bytes or text whose pages name values of a dictionary. Raises CorruptSample."""
        numbered = []
        with open(self.path, "rb") as file:
            for number in self._leaves:
                leaf = self._footer.leaves[number]
                path = ".".join(leaf.path)
                try:
                    has_numbers = check_pages(file, self._footer.chunks[group][number], MAX_GROUP_BYTES)
                except ValueError as error:
                    raise CorruptSample(f"row group {group}, column {shown(path)}: {error}") from None
                if has_numbers and leaf.kind == BYTE_ARRAY:
                    numbered.append(path)
        return numbered
