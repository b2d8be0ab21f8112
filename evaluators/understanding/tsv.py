"""VLMEvalKit's TSV files: a question a row, images in base64 in the column `image`.

Rules of that harness (`vlmeval/dataset/image_base.py`): a cell of `image` of at most 64 characters names the row, by `index`,
whose images these are; a cell that starts with `[` lists several; rows without an image are left out; where there is no
column `image`, `image_path` names files. Differences: lists are read, never evaluated; paths must lie beside the file; a cell
that pandas would take for "not a number" (an option "None", say) stays what it is.
"""

import base64
import binascii
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from evaluators.understanding.record import Record
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.beside import read_beside
from rf_repro.core.untrusted.csv_text import csv_rows
from rf_repro.core.untrusted.plain_files import open_plain
from rf_repro.core.untrusted.problems import MAX_CELL, CorruptSample, shown

SUFFIX = ".tsv"
REFERENCE = 64  # characters of an `image` cell up to which it names another row
_LISTED = re.compile(r"""['"]([^'"]*)['"]""")


def read_tsv(path: Path, problems: list[str]) -> Iterator[Record]:
    """The rows of a file that have an image, in its order; what cannot be read is told in `problems`. Images are read again
    from the file when they are asked for.

    Raises:
        UserError: the file cannot be opened, is no such TSV, or is not UTF-8.
    """
    images = _Images(path)
    for number, (start, stop, cells) in enumerate(_rows(path, images), start=2):
        where = f"{shown(path.name)}: row {number}"
        if len(cells) != len(images.header):
            problems.append(f"{where}: has {len(cells)} cells of {len(images.header)}: cut off or damaged")
            continue
        row = dict(zip(images.header, cells, strict=True))
        picture = row.pop("image", None)
        index = row.get("index", "")
        if picture is not None:
            images.places[index] = (start, stop)
            if not picture:
                continue
        elif not row.get("image_path"):
            continue
        values = {name: cell for name, cell in row.items() if cell}
        yield Record(where, "tsv", values, partial(images.load, start, stop))


def _rows(path: Path, images: "_Images") -> Iterator[tuple[int, int, list[str]]]:
    """(first byte, end, cells) of each row after the header, which is noted in `images`."""
    try:
        with open_plain(path) as file:
            position = 0

            def lines() -> Iterator[str]:
                nonlocal position
                while line := file.readline(MAX_CELL + 1):
                    if len(line) > MAX_CELL:
                        raise ValueError(f"a line of more than {MAX_CELL:,} bytes")
                    position += len(line)
                    yield line.decode("utf-8-sig" if position == len(line) else "utf-8")

            reader = csv_rows(lines(), "\t")
            images.header = next(reader, [])
            if "index" not in images.header or "question" not in images.header:
                raise UserError(f"{path}: is no TSV of VLMEvalKit: its first line has no columns index and question")
            start = position
            for cells in reader:
                yield start, position, cells
                start = position
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 near byte {position}; download it again") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: near byte {position}: {error}; download it again") from None


class _Images:
    """Where each row's images lie in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: list[str] = []
        self.places: dict[str, tuple[int, int]] = {}  # index -> bytes of its row

    def load(self, start: int, stop: int) -> dict[int, bytes]:
        """Raises CorruptSample or OSError."""
        row = self._row(start, stop)
        cell = row.get("image")
        if cell is None:
            names = _listed(row.get("image_path", ""))
            folder = self.path.absolute().parent.resolve()
            return {number: read_beside(folder, name, "image_path") for number, name in enumerate(names, start=1)}
        if len(cell) <= REFERENCE and not cell.startswith("["):
            if cell not in self.places:
                raise CorruptSample(f"its image is that of row {shown(cell)}, which is not there")
            cell = self._row(*self.places[cell]).get("image", "")
        found = {}
        for number, text in enumerate(_listed(cell), start=1):
            try:
                found[number] = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise CorruptSample("its image is not base64") from None
        return found

    def _row(self, start: int, stop: int) -> dict[str, str]:
        with open_plain(self.path) as file:
            file.seek(start)
            text = file.read(stop - start).decode("utf-8")
        cells = next(csv_rows(io.StringIO(text, newline="\n"), "\t"), [])
        if len(cells) != len(self.header):
            raise CorruptSample(f"its row has {len(cells)} cells of {len(self.header)}: the file has changed")
        return dict(zip(self.header, cells, strict=True))


def _listed(cell: str) -> list[str]:
    """The texts of a list as Python prints it, or the cell itself."""
    return _LISTED.findall(cell) if cell.startswith("[") and cell.endswith("]") else [cell]
