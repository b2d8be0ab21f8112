"""What is amiss with files that are to be scored: listed, never passed over."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rf_repro.core.errors import UserError
from rf_repro.core.files import write_text

LINE = re.compile(r"[a-z][a-z ]*: [^:]+: ")  # kind, path, message
SHOWN = 5  # told one by one; the file holds all


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, folder or prompt; `path` is relative to the folder that was scanned."""

    kind: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.message}"


def report_problems(problems: Sequence[Problem], path: Path | None, tell: Callable[[str], None]) -> None:
    """Writes all, a line each, and tells how many there are and the first few.

    Args:
        path: file to write, which is removed where there are none; None: no file.
        tell: called with each line.

    Raises:
        UserError: what is at `path` was not written here.
    """
    if path is not None and path.exists():
        _require_ours(path)
        path.unlink()
    if not problems:
        return
    lines = [str(problem) for problem in problems]
    counts = ", ".join(f"{kind}: {number}" for kind, number in Counter(problem.kind for problem in problems).most_common())
    if path is not None:
        write_text(path, "\n".join(lines) + "\n")
    tell(f"{len(lines)} problems ({counts})" + (f", all in {path}" if path else ""))
    for line in lines[:SHOWN]:
        tell(f"  {line}")


def _require_ours(path: Path) -> None:
    is_file = path.is_file() and not path.is_symlink()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if is_file else []
    if not is_file or not all(LINE.match(line) for line in lines):
        raise UserError(f"{path}: is not a list of problems that was written here; move it away")
