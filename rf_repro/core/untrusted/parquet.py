"""Parquet files, as Hugging Face's: rows are read by row group, the last few of which are kept.

Any order is fast while row groups are small, as Hugging Face's of 100 images are: a row costs at most the reading of its group.

Metadata of a column in a row group (`RowGroupMetaData.column`) is never asked for: where its statistics are damaged, pyarrow ends
the process (an exception of C++ that nobody catches, as of version 26). Reading the same column raises an error as it should.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rf_repro.core.untrusted.columns import ChooseColumns
from rf_repro.core.untrusted.problems import CorruptSample, shown

MAX_FOOTER_BYTES = 32 << 20
MAX_GROUP_BYTES = 2 << 30  # of one row group as decompressed, all columns together
PLAUSIBLE_ROWS = 1_000_000  # even in a small file
KEPT_BYTES = 256 << 20  # of row groups kept in memory; the last one is kept whatever its size
READ_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, MemoryError)


class ParquetShard:
    """One open Parquet file.

    Args:
        choose: which columns of a schema are read.

    Attributes:
        columns: those chosen.
        damage: what is wrong with the rest of the file; "" if nothing.

    Raises:
        CorruptSample: it is damaged, or lacks a column.
        OSError: it cannot be opened.
    """

    damage = ""

    def __init__(self, path: Path, choose: ChooseColumns) -> None:
        self.path = path
        _check_end(path)
        try:
            with pq.ParquetFile(path) as file:
                self._metadata, schema = file.metadata, file.schema_arrow
        except READ_ERRORS as error:
            raise CorruptSample(f"its footer is damaged ({shown(error)})") from None
        groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
        self._rows = [group.num_rows for group in groups]
        self._sizes = [group.total_byte_size for group in groups]  # decompressed
        if min([*self._rows, *self._sizes], default=0) < 0:
            raise CorruptSample("its footer is damaged")
        # A sample takes a byte at least; a count that lies would have its reader make an order of so many.
        if sum(self._rows) > max(PLAUSIBLE_ROWS, path.stat().st_size):
            raise CorruptSample(f"declares {sum(self._rows)} rows, more than it can hold")
        self._starts = np.cumsum([0, *self._rows])
        self.columns = choose(schema)
        for name in self.columns.needed:
            if "." in name:
                raise CorruptSample(f"column {shown(name)}: a dot in a name cannot be told from nesting; rename it")
        leaves = [self._metadata.schema.column(number) for number in range(len(self._metadata.schema))]
        needed = [leaf for leaf in leaves if self.columns.needs(tuple(leaf.path.split(".")))]
        self._needed = [leaf.path for leaf in needed]
        self._texts = [leaf.path for leaf in needed if leaf.physical_type == "BYTE_ARRAY"]
        self._kept: OrderedDict[int, pa.Table | CorruptSample] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        self._kept.clear()  # files are open only while a row group is read

    def record(self, index: int) -> dict[str, Any]:
        """Text columns of a row. Raises CorruptSample."""
        return self.columns.record(*self._find(index))

    def image(self, index: int, name: str = "") -> bytes:
        """The encoded image of a row, of the image column of that name or else of the first. Raises CorruptSample."""
        return self.columns.image_bytes(*self._find(index), name)

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
        while self._kept and self._size_kept() + self._sizes[group] > KEPT_BYTES:
            self._kept.popitem(last=False)
        try:
            self._kept[group] = self._read(group)
        except CorruptSample as problem:
            self._kept[group] = problem

    def _size_kept(self) -> int:
        return sum(table.nbytes for table in self._kept.values() if isinstance(table, pa.Table))

    def _read(self, group: int) -> pa.Table:
        if self._sizes[group] > MAX_GROUP_BYTES:
            raise CorruptSample(
                f"row group {group} expands to {self._sizes[group]} bytes; at most {MAX_GROUP_BYTES} are read, so write "
                "smaller row groups"
            )
        try:
            try:
                # Values that pages name by number stay so: written out, one large value could fill any memory.
                table = self._read_columns(group, self._texts)
            except (OSError, pa.ArrowNotImplementedError) as error:
                if "Not yet implemented" not in str(error):
                    raise
                table = self._read_columns(group, [])  # values by length or shared prefix, which no page names by number
            table.validate(full=True)  # offsets that point outside would crash the process
        except READ_ERRORS as error:
            raise CorruptSample(f"row group {group} cannot be read ({shown(error)})") from None
        if table.num_rows != self._rows[group]:
            raise CorruptSample(f"row group {group} has {table.num_rows} rows, {self._rows[group]} are declared")
        return table

    def _read_columns(self, group: int, numbered: list[str]) -> pa.Table:
        with pq.ParquetFile(
            self.path, metadata=self._metadata, read_dictionary=numbered, page_checksum_verification=True
        ) as file:
            return file.read_row_group(group, columns=self._needed, use_threads=False)


def _check_end(path: Path) -> None:
    """Raises CorruptSample where the file's end is not that of a Parquet file, or declares a footer too large to be read."""
    with open(path, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - 8, 0))
        end = file.read(8)
    if end[4:] != b"PAR1":
        raise CorruptSample("does not end as a Parquet file: cut off, encrypted or another format")
    if (length := int.from_bytes(end[:4], "little")) > MAX_FOOTER_BYTES:
        raise CorruptSample(f"has a footer of {length} bytes; at most {MAX_FOOTER_BYTES} are read")
