"""JSON and JSON-lines files of others, read by one function each: whatever is wrong is one line with the file's name."""

import gzip
import json
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.typed import Row, row_of
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_JSON_BYTES, MAX_JSONL_BYTES

NO_HINTS: Mapping[str, Any] = {}


def read_json(path: Path, remedy: str = "delete it to have it made again") -> Any:
    """Reads a JSON file.

    Args:
        remedy: ends the line about a file that is no JSON: not every file is ours to make again.

    Raises:
        UserError: it is missing, no plain file, too large, or no JSON that `parse_json` takes; the line names the file.
    """
    try:
        return parse_json(read_bytes(path, MAX_JSON_BYTES))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {remedy}") from None


def read_object(path: Path, hints: Mapping[str, Any] = NO_HINTS, others: Any = Any, **remedy: str) -> Row:
    """Reads a JSON file that holds one object.

    Args:
        hints, others: annotations of its fields, as of `row_of`.
        remedy: as of `read_json`.

    Raises:
        UserError: as `read_json`, it holds something else, or a field is of another type; and later, where it lacks a field.
    """
    return row_of(read_json(path, **remedy), str(path), hints, others)


def read_jsonl(path: Path, hints: Mapping[str, Any] = NO_HINTS, others: Any = Any) -> list[dict[str, Any]]:
    """Reads a JSON-lines file, `.gz` or plain. A last line torn by a killed writer is dropped.

    Args:
        hints, others: annotations of the rows' fields, as of `row_of`.

    Returns:
        A `Row` of each line.

    Raises:
        UserError: it is missing, no plain file or too large, also once decompressed; any other line is no JSON object; or a field
            is of another type.
    """
    lines = _decompressed(path).split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):  # no newline: the writer was killed mid-line
                break
            raise UserError(f"{path}:{number}: not valid JSON ({error}); mend or remove this line") from None
        rows.append(row_of(row, f"{path}:{number}", hints, others))
    return rows


def _decompressed(path: Path) -> bytes:
    data = read_bytes(path, MAX_JSONL_BYTES)
    if Path(path).suffix != ".gz":
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            data = file.read(MAX_JSONL_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not valid gzip ({error}); copy it here again") from None
    if len(data) > MAX_JSONL_BYTES:
        raise UserError(f"{path}: expands to more than {MAX_JSONL_BYTES:,} bytes, the most that is read; is it the right file?")
    return data
