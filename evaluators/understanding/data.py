"""From where they are to the questions of a benchmark, counted.

A folder of data holds, for each benchmark, a folder or a file of its name (`mmmu/`, `mmmu.parquet`) or VLMEvalKit's file under
its own (`MMMU_DEV_VAL.tsv`). In a folder every .parquet, .arrow or .tsv file counts, as a download from the hub leaves them;
where names tell splits or configurations apart (`validation-00000-of-00001.parquet`, `DocVQA/`), only the benchmark's own.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from evaluators.understanding.benchmark import Benchmark, as_text
from evaluators.understanding.columns import SUFFIXES, read_columns
from evaluators.understanding.hub import read_hub
from evaluators.understanding.record import Record, Row
from evaluators.understanding.tsv import SUFFIX, read_tsv
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash

HUB = "hub"
SPLITS = ("train", "dev", "val", "validation", "test", "image", "non_image")
_SPLIT_NAME = re.compile(rf"({'|'.join(SPLITS)})(?=[-_.]|$)")


@dataclass(frozen=True)
class Questions:
    """
    Attributes:
        rows: with keys of their own, in the data's order.
        problems: one line each: rows that could not be read.
        source: where they are from, for the record.
        digest: 8 hex digits, of the questions' texts, options and answers: the same questions have the same.
        limited: only the first so many were wanted.
    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    source: str
    digest: str
    limited: bool

    def incomplete(self, benchmark: Benchmark) -> str:
        """Why these are not the benchmark's questions; "" if they are."""
        if self.limited:
            return f"only the first {len(self.rows)} questions of {benchmark.expected:,} were asked"
        if len(self.rows) == benchmark.expected:
            return ""
        more = f"; {self.problems[0]}" if self.problems else ""
        known = "" if benchmark.size_verified else " (as its authors say; not counted here)"
        return f"the data have {len(self.rows):,} questions, the benchmark has {benchmark.expected:,}{known}{more}"


def load_questions(benchmark: Benchmark, data: str, *, alone: bool = True, limit: int | None = None) -> Questions:
    """The benchmark's questions, without their images, which are read as they are asked.

    Args:
        data: a folder, a file, `hub`, or `hub:ID`.
        alone: whether it is the only benchmark wanted, so that a file, or a folder of files, may be its own.
        limit: take the first so many.

    Raises:
        UserError: there are none, or a file is not this benchmark's.
    """
    problems: list[str] = []
    if data == HUB or data.startswith(f"{HUB}:"):
        wanted = data.removeprefix(HUB).removeprefix(":")
        if wanted and not alone:
            raise UserError(f"data={data!r}: is one benchmark's data; name one benchmark")
        source = wanted or benchmark.hub[0]
        records: Iterable[Record] = read_hub(benchmark, source)
    else:
        files = find_files(benchmark, Path(data).expanduser(), alone)
        source = ", ".join(file.name for file in files)
        records = (record for file in files for record in _read(file, problems))
    numbered = (replace(record, number=number) for number, record in enumerate(records))
    found = (row for record in numbered if (row := benchmark.row(record)) is not None)
    rows = tuple(_distinct(found if limit is None else islice(found, limit)))
    if not rows:
        why = problems[0] if problems else f"none of its rows is of the split {benchmark.split} and has an image"
        raise UserError(f"{data}: no question of {benchmark.title}: {why}")
    if len({row.layout for row in rows}) > 1:
        raise UserError(f"{data}: holds {benchmark.name} twice, as TSV and as parquet or arrow; keep one")
    described = [[row.key, row.question, as_text(row.answer), as_text(dict(row.fields))] for row in rows]
    limited = limit is not None and limit < benchmark.expected
    return Questions(rows, tuple(problems), source, content_hash(described)[:8], limited)


def find_files(benchmark: Benchmark, data: Path, alone: bool) -> list[Path]:
    """The benchmark's files in a folder of data, sorted by path. Raises UserError when there are none."""
    formats = (*SUFFIXES, SUFFIX)
    if data.is_file():
        if not alone:
            raise UserError(f"data={str(data)!r}: is one file; name one benchmark, or a folder with a folder for each")
        if data.suffix.lower() not in formats:
            raise UserError(f"data={str(data)!r}: must be {', '.join(formats)}")
        return [data]
    if not data.is_dir():
        raise UserError(f"data={str(data)!r}: no such folder or file; `hub` downloads")
    names = [*(f"{benchmark.name}{suffix}" for suffix in formats), *(f"{stem}{SUFFIX}" for stem in benchmark.tsv)]
    direct = [data / name for name in names if (data / name).is_file()]
    if direct:
        return direct[:1]
    folder = data / benchmark.name
    if not folder.is_dir():
        if not alone or not any(data.rglob(f"*{suffix}") for suffix in formats):
            raise UserError(f"data={str(data)!r}: has neither a folder {benchmark.name}/ nor {' or '.join(names)}")
        folder = data
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in formats and path.is_file() and not path.name.startswith(".")
    )
    named = [path for path in files if path.name in names]  # among other benchmarks' TSVs
    files = named or [path for path in files if _of_split(path.relative_to(folder), benchmark)]
    if not files:
        raise UserError(f"{folder}: no file {', '.join(formats)} of the split {benchmark.split}; see docs/understanding.md")
    return files


def _of_split(path: Path, benchmark: Benchmark) -> bool:
    """Whether nothing in a path tells another split or configuration."""
    splits = [match[1] for part in path.parts if (match := _SPLIT_NAME.match(part))]
    if splits and benchmark.split not in splits:
        return False
    others = [part for part in path.parts[:-1] if part not in SPLITS and part != "data"]
    return not benchmark.configs or not others or any(part in benchmark.configs for part in others)


def _read(path: Path, problems: list[str]) -> Iterator[Record]:
    return (read_tsv if path.suffix.lower() == SUFFIX else read_columns)(path, problems)


def _distinct(rows: Iterable[Row]) -> Iterator[Row]:
    """The second of a key gets `#2`, as both questions of MME about one image."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.key] = count = seen.get(row.key, 0) + 1
        yield row if count == 1 else replace(row, key=f"{row.key}#{count}")
