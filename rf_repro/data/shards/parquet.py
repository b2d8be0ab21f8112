"""Parquet shards, as Hugging Face's: rows are read by row group, the last few of which are kept.

Any order is fast while row groups are small, as Hugging Face's of 100 images are: a row costs at most the reading of its group.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rf_repro.config.schema import SourceConfig
from rf_repro.data.shards.columns import Columns
from rf_repro.data.shards.parquet_pages import check_footer, check_pages
from rf_repro.data.shards.samples import CorruptSample, shown

MAX_GROUP_BYTES = 1 << 30  # of the needed columns of one row group, as decompressed
KEPT_BYTES = 256 << 20  # of row groups kept in memory; the last one is kept whatever its size
READ_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)


class ParquetShard:
    """One open Parquet file.

    Raises:
        CorruptSample: it is damaged, or lacks a column.
        OSError: it cannot be opened.
    """

    damage = ""

    def __init__(self, path: Path, source: SourceConfig) -> None:
        self.path = path
        try:
            check_footer(path)
        except ValueError as error:
            raise CorruptSample(str(error)) from None
        self._file = pq.ParquetFile(path, memory_map=False)
        try:
            self._prepare(source)
        except BaseException:
            self.close()
            raise

    def _prepare(self, source: SourceConfig) -> None:
        metadata = self._file.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        # A sample takes more than a byte; a count that lies would have its reader allocate an order of so many.
        if metadata.num_rows != sum(rows) or min(rows, default=0) < 0 or sum(rows) > self.path.stat().st_size:
            raise CorruptSample(f"declares {metadata.num_rows} rows, more than it can hold")
        self._starts = np.cumsum([0, *rows])
        self._columns = Columns(self._file.schema_arrow, source)
        if dotted := [name for name in self._columns.needed if "." in name]:
            raise CorruptSample(f"column {shown(dotted[0])}: a dot in a name cannot be told from nesting; rename it")
        leaves = [self._file.schema.column(number) for number in range(len(self._file.schema))]
        self._leaves = [number for number, leaf in enumerate(leaves) if self._is_needed(leaf.path)]
        self._paths = [leaves[number].path for number in self._leaves]
        # Values that a page names by number stay so: written out, one large value could fill any memory.
        numbered = [leaves[number].path for number in self._leaves if leaves[number].physical_type == "BYTE_ARRAY"]
        self._file.close()
        self._file = pq.ParquetFile(self.path, memory_map=False, read_dictionary=numbered)
        self._kept: OrderedDict[int, pa.Table | CorruptSample] = OrderedDict()

    def _is_needed(self, path: str) -> bool:
        """Whether a leaf column is read: of an image's struct only `bytes`, of texts and conversations everything."""
        column = path.split(".")[0]
        return path in (column, f"{column}.bytes") if column == self._columns.image else column in self._columns.texts

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        self._file.close()

    def record(self, index: int) -> dict[str, Any]:
        """Text columns of a row. Raises CorruptSample."""
        return self._columns.record(*self._find(index))

    def image(self, index: int) -> bytes:
        """The encoded image of a row. Raises CorruptSample."""
        return self._columns.image_bytes(*self._find(index))

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
        while self._kept and self._size_kept() + self._size(group) > KEPT_BYTES:
            self._kept.popitem(last=False)
        try:
            self._kept[group] = self._read(group)
        except CorruptSample as problem:
            self._kept[group] = problem

    def _size(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        return sum(metadata.column(leaf).total_uncompressed_size for leaf in self._leaves)

    def _size_kept(self) -> int:
        return sum(table.nbytes for table in self._kept.values() if isinstance(table, pa.Table))

    def _read(self, group: int) -> pa.Table:
        try:
            for leaf in self._leaves:
                check_pages(self.path, self._file.metadata.row_group(group).column(leaf), MAX_GROUP_BYTES)
            table = self._file.read_row_group(group, columns=self._paths, use_threads=False)
            table.validate(full=True)
        except READ_ERRORS as error:
            raise CorruptSample(f"row group {group} cannot be read ({shown(error)})") from None
        expected = int(self._starts[group + 1] - self._starts[group])
        if table.num_rows != expected:
            raise CorruptSample(f"row group {group} has {table.num_rows} rows, {expected} are declared")
        return table
