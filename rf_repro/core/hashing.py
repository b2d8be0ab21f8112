"""Content hashes and derived seeds: the same inputs give the same bits on every machine and in every process."""

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Key-sorted JSON without whitespace: one text per value, whatever order its dictionaries were built in."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 hex digest of a JSON-serialisable value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from named parts, e.g. `derive_seed("sample", prompt_id, sample_index)`.

    Independent of batch size, rank count and the order in which seeds are asked for.
    """
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
