"""What is amiss with files that are to be scored: listed, never passed over."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rf_repro.core.files import write_text

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
    """
    if path is not None:
        path.unlink(missing_ok=True)
    if not problems:
        return
    lines = [str(problem) for problem in problems]
    counts = ", ".join(f"{kind}: {number}" for kind, number in Counter(problem.kind for problem in problems).most_common())
    if path is not None:
        write_text(path, "\n".join(lines) + "\n")
    tell(f"{len(lines)} problems ({counts})" + (f", all in {path}" if path else ""))
    for line in lines[:SHOWN]:
        tell(f"  {line}")
