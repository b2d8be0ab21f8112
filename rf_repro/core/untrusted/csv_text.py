"""Tables of others as text with separators: the only room that calls Python's `csv.reader`."""

import csv
from collections.abc import Iterable, Iterator

from rf_repro.core.untrusted.problems import MAX_CELL


def csv_rows(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """The cells of each row; an empty line has none.

    Args:
        lines: with their ends; a row in quotes may go over several.

    Raises:
        ValueError: a cell of more than `MAX_CELL` characters, a NUL character, or quotes that no reader can tell.
    """
    csv.field_size_limit(MAX_CELL)  # Python's own, 131,072, is less than one image in base64, and any library may change it
    try:
        yield from csv.reader(_without_nul(lines), delimiter=delimiter)
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise ValueError("holds a NUL character")
        yield line
