"""Which code ran, with which libraries, and when."""

import hashlib
import os
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_object
from rf_repro.core.import_path import ROOT

SNAPSHOT = "snapshot.json"  # beside the packages in a copy that `slurm.snapshot` made


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def run_git(root: Path, *arguments: str) -> bytes:
    """What a git command run in a folder prints.

    Raises:
        UserError: git is not installed or refuses; the line holds its reason.
    """
    command = ["git", "-C", str(root), *arguments]
    environment = os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}  # many ranks ask at once: nobody writes the index
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=60, env=environment).stdout
    except FileNotFoundError:
        raise UserError(f"{root}: git is not installed, and only it knows the state of this code; install git") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{root}: git {arguments[0]} took over a minute; try again, or copy the code to a faster disk") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().split("\n")[0]
        raise UserError(f"{root}: git {arguments[0]} failed ({said}); mend the repository") from None


def is_tracked(root: Path) -> bool:
    """Whether the code in a folder is a git checkout; installed in a folder that lies in some repository it is not.

    Raises:
        UserError: it lies in a repository that git cannot read.
    """
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return False
    return bool(run_git(root, "ls-files", "--", "rf_repro"))


def checkout_state(root: Path) -> tuple[str, bytes]:
    """(revision, uncommitted diff) of a git checkout; the diff holds tracked files alone and can be applied.

    Raises:
        UserError: git refuses, or nothing was committed yet.
    """
    revision = run_git(root, "rev-parse", "--verify", "HEAD").decode().strip()
    # Whatever the user's own settings, the same changes give the same bytes.
    settings = (
        "--binary", "--full-index", "--unified=3", "--inter-hunk-context=0", "--diff-algorithm=myers", "--src-prefix=a/",
        "--dst-prefix=b/", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative",
    )  # fmt: skip
    return revision, run_git(root, "diff", *settings, "HEAD")


def dirty_hash(diff: bytes) -> str | None:
    """SHA-256 of an uncommitted diff; None when there is none."""
    return hashlib.sha256(diff).hexdigest() if diff else None


@cache
def code_revision() -> tuple[str | None, str | None]:
    """(git revision, SHA-256 of the uncommitted diff or None when clean) of the code that runs.

    A snapshot says what it was made from. (None, None) where nothing is known: installed code, or git refuses.
    """
    if (ROOT / SNAPSHOT).exists():
        made = read_object(ROOT / SNAPSHOT, {"revision": str | None, "dirty": str | None})
        return made["revision"], made["dirty"]
    try:
        if not is_tracked(ROOT):
            return None, None
        revision, diff = checkout_state(ROOT)
    except UserError:  # a run goes on without the name of its code
        return None, None
    return revision, dirty_hash(diff)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    found = {}
    for name in ("rf_repro", "torch", "numpy", "tokenizers", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
