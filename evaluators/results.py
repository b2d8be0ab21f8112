"""What every evaluator returns and takes beside its own options: a result with its rows, progress, and a share of the work."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from evaluators.problems import Problem
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from rf_repro.core.results import write_result

Progress = Callable[[str, int, int], None]  # (what is being done, how many of it are done, how many there are)
Tell = Callable[[str], None]  # a line that a person may want to read before the scores come
Share = tuple[int, int]  # (index, count): the index-th of `count` shares of the work, from 0
ALL: Share = (0, 1)
E = TypeVar("E", bound="Evaluation")


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvalResult):
    """A result together with what it is made of.

    Attributes:
        rows: an image or question each, as the items' file has them.
        problems: what is amiss with the files that were to be scored.
    """

    rows: list[dict[str, Any]] = field(repr=False)
    problems: tuple[Problem, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls: type[E], result: EvalResult, rows: Sequence[dict[str, Any]], **rest: Any) -> E:
        """The result with its rows and the fields of a subclass."""
        return cls(**{item.name: getattr(result, item.name) for item in fields(EvalResult)}, rows=list(rows), **rest)

    def write(self: E, folder: Path, name: str) -> E:
        """Writes NAME.items.jsonl and NAME.json; returns the result that names its items."""
        write_result(folder, name, self, self.rows)
        return replace(self, items=f"{name}.items.jsonl")

    def to_dict(self) -> dict[str, Any]:
        """The record alone: what an `EvalResult` holds."""
        return {item.name: getattr(self, item.name) for item in fields(EvalResult)}


def no_progress(what: str, done: int, total: int) -> None:
    """Where nobody watches."""


def not_told(line: str) -> None:
    """Where nobody reads."""


def counting(progress: Progress, what: str) -> Callable[[int, int], None]:
    """Progress of one thing that is done, for those who count it alone."""
    return lambda done, total: progress(what, done, total)


@contextmanager
def kept_in(out: Path | str | None) -> Iterator[Path]:
    """The folder where work is kept, from which it resumes; without `out` one that is gone after the block."""
    if out is not None:
        yield Path(out)
    else:
        with TemporaryDirectory(prefix="evaluators-") as folder:
            yield Path(folder)


def require_same_images(digests: Mapping[tuple[int, int], str] | None, found: Mapping[tuple[int, int], tuple[Path, str]]) -> None:
    """Raises UserError when an image to be scored is not the one that was sampled.

    Args:
        digests: (prompt id, sample) -> SHA-256 that the file must have; None: any will do.
        found: (prompt id, sample) -> the file, and its SHA-256.
    """
    for key, (path, digest) in found.items():
        if digests is not None and digests.get(key) != digest:
            raise UserError(f"{path}: is not the image that the run made; sample into a new folder, then score it")
