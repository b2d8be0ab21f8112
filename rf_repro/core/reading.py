"""JSON and JSON-lines files of others, read by one function each: whatever is wrong is one line with the file's name."""

import gzip
import json
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_JSON_BYTES, MAX_JSONL_BYTES


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: it is missing, no plain file, too large, or no JSON that `parse_json` takes; the line names the file.
    """
    try:
        return parse_json(read_bytes(path, MAX_JSON_BYTES))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it to have it made again") from None


def read_object(path: Path, remedy: str = "delete it to have it made again") -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Raises:
        UserError: as `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object, not {json_kind(value)}; {remedy}")
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file, `.gz` or plain. A last line torn by a killed writer is dropped.

    Raises:
        UserError: it is missing, no plain file or too large, also once decompressed; or any other line is no JSON object.
    """
    lines = _decompressed(path).split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):  # no newline: the writer was killed mid-line
                break
            raise UserError(f"{path}:{number}: not valid JSON ({error}); mend or remove this line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: must be a JSON object, not {json_kind(row)}; mend or remove this line")
        rows.append(row)
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


def json_kind(value: object) -> str:
    """What JSON calls a value, for messages."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    kinds = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)
