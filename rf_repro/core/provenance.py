"""Which code ran, with which libraries, and when."""

import hashlib
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


@cache
def code_revision() -> tuple[str | None, str | None]:
    """(git revision, SHA-256 of the uncommitted diff or None when clean); (None, None) outside a repository."""

    def git(*arguments: str) -> bytes | None:
        try:
            return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return None

    revision = git("rev-parse", "HEAD")
    diff = git("diff", "HEAD")
    if revision is None:
        return None, None
    return revision.decode().strip(), hashlib.sha256(diff).hexdigest() if diff else None


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    found = {}
    for name in ("rf_repro", "torch", "numpy", "tokenizers", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
