"""A result on disk: its items, and then the record that names them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rf_repro.core.files import write_json, write_jsonl
from rf_repro.core.records import EvalResult


def write_result(folder: Path, name: str, result: EvalResult, rows: Sequence[Mapping[str, Any]] | None = None) -> Path:
    """Writes NAME.items.jsonl and then NAME.json: where the record is, all of it is.

    Args:
        rows: an image or a question each; None: the result has no items.

    Returns:
        Path of the record.
    """
    if rows is not None:
        result = replace(result, items=f"{name}.items.jsonl")
        write_jsonl(folder / f"{name}.items.jsonl", [dict(row) for row in rows])
    path = folder / f"{name}.json"
    write_json(path, result.to_dict())
    return path
