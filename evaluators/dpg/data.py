"""DPG-Bench's questions: where to get them, whether a file is the published one, and what it says.

One CSV holds all: a row a question, with the prompt it belongs to (`item_id`, `text`), its number within the prompt
(`proposition_id`), the numbers of its parents (`dependency`, by comma, 0 for none) and its category (`tuple`, up to the first
parenthesis). It is known by git's hash of its content.

Source: TencentQQGYLab/ELLA, commit 3c228f1, dpg_bench/dpg_bench.csv, Apache-2.0 (arXiv 2403.05135). Its prompts/*.txt hold one
prompt a file; here the CSV's own `text` is used, which the hash covers too.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluators.geneval.prompt_sets import Progress, download
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path
from rf_repro.core.untrusted.csv_text import csv_rows
from rf_repro.core.untrusted.plain_files import read_bytes, read_text
from rf_repro.core.untrusted.problems import MAX_RECORD_BYTES, MAX_TABLE_BYTES, shown

FILE = "dpg_bench.csv"
URL = f"https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/{FILE}"
BLOB = "98457fc9901943f51ff9a30367250fc292533bed"  # what `git hash-object` prints for it
NUM_PROMPTS = 1065
LARGEST = 1 << 26  # bytes; a longer answer is not this file
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


@dataclass(frozen=True)
class Question:
    """A row of the CSV. `id` is its number within its prompt, `parents` the numbers it depends on, in order, without 0.

    `category` is the paper's level 2, e.g. `entity - whole`.
    """

    item_id: str
    prompt: str
    id: int
    parents: tuple[int, ...]
    category: str
    text: str


@dataclass(frozen=True)
class Benchmark:
    """All rows in the CSV's order; `name` is `dpg-bench` for the published file, else `custom-` and 8 digits of its hash."""

    name: str
    rows: tuple[Question, ...]

    @cached_property
    def items(self) -> dict[str, tuple[Question, ...]]:
        """Item -> all of its questions, in order."""
        found: dict[str, list[Question]] = {}
        for row in self.rows:
            found.setdefault(row.item_id, []).append(row)
        return {item_id: tuple(rows) for item_id, rows in found.items()}

    @property
    def prompts(self) -> dict[str, str]:
        """Item -> prompt, in order."""
        return {item_id: questions[0].prompt for item_id, questions in self.items.items()}


def level1(category: str) -> str:
    """`entity - whole` -> `entity`; `global -` -> `global`."""
    return category.split("-")[0].strip()


def git_blob_hash(data: bytes) -> str:
    """What `git hash-object` prints for a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def default_folder() -> Path:
    """Where the file is kept: `dpg` in the user's cache folder for this package."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: an empty or relative value counts as unset.
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "rf_repro" / "dpg"


def load(path: Path | None = None) -> Benchmark:
    """The published questions that were fetched, or those of any CSV with its columns.

    Raises:
        UserError: no such file, damaged, a column or value is missing, or a question's parent is no question of its prompt.
    """
    where = path or default_folder() / FILE
    missing = f"no such file; {'name another csv=FILE' if path else '`rf-repro data fetch dpg`'}"
    data = read_bytes(where, MAX_TABLE_BYTES, missing)
    digest = git_blob_hash(data)
    if path is None and digest != BLOB:
        raise UserError(f"{where}: not DPG-Bench's file: its git hash is {digest}, not {BLOB}; delete it and fetch it again")
    benchmark = parse(data, str(where), "dpg-bench" if digest == BLOB else f"custom-{digest[:8]}")
    _check_parents(benchmark, str(where))
    return benchmark


def parse(data: bytes, where: str, name: str) -> Benchmark:
    """The CSV's rows. Raises UserError, which names the row, when a value is missing or no number."""
    try:
        header, *lines = [cells for cells in csv_rows(io.StringIO(data.decode("utf-8-sig"), newline="")) if cells] or [[]]
    except ValueError as error:
        raise UserError(f"{where}: not a CSV in UTF-8 ({shown(error)})") from None
    if lacking := [column for column in COLUMNS if column not in header]:
        raise UserError(f"{where}: has no column {lacking[0]!r}; the columns of {FILE} are needed: {', '.join(COLUMNS)}")
    rows = tuple(  # of a row that is too short, `_question` names what is missing
        _question(dict(zip(header, cells, strict=False)), f"{where}: row {number}") for number, cells in enumerate(lines, start=1)
    )
    if not rows:
        raise UserError(f"{where}: holds no question")
    return Benchmark(name, rows)


def _check_parents(benchmark: Benchmark, where: str) -> None:
    for item_id, questions in benchmark.items.items():
        known = {question.id for question in questions}
        for question in questions:
            if unknown := [parent for parent in question.parents if parent not in known]:
                raise UserError(f"{where}: {item_id}: question {question.id} depends on {unknown[0]}, which is not there")


def _question(line: dict[str, str], where: str) -> Question:
    if empty := [column for column in COLUMNS if not line.get(column)]:
        raise UserError(f"{where}: {empty[0]} is empty")
    try:
        parents = tuple(int(part.strip()) for part in line["dependency"].split(","))
        number = int(line["proposition_id"])
    except ValueError as error:
        raise UserError(f"{where}: proposition_id and dependency must be whole numbers ({shown(error)})") from None
    return Question(
        item_id=line["item_id"],
        prompt=line["text"],
        id=number,
        parents=tuple(parent for parent in parents if parent != 0),
        category=line["tuple"].split("(")[0].strip(),
        text=line["question_natural_language"],
    )


def prompt_rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    """The prompts as `rf-repro sample` takes them: metadata in GenEval's fields, and the `item_id`."""
    return [{"tag": "dpg", "include": [], "prompt": prompt, "item_id": item_id} for item_id, prompt in benchmark.prompts.items()]


def fetch(folder: Path, source: str | None = None, progress: Progress = lambda done, total: None) -> Path:
    """Puts the CSV into the folder, once its bytes are known to be the published ones; one that is there stays.

    Args:
        source: the file; a folder that holds it, also as dpg_bench/dpg_bench.csv; or an http(s) address (default: ELLA's).

    Raises:
        UserError: it cannot be read or downloaded, or is another file; nothing is written then.
    """
    target = folder / FILE
    if target.is_file() and git_blob_hash(target.read_bytes()) == BLOB:
        return target
    source = source or URL
    if source.startswith(("http://", "https://")):
        data = download(source, LARGEST, progress)
    else:
        places = [Path(source) / FILE, Path(source) / "dpg_bench" / FILE] if Path(source).is_dir() else [Path(source)]
        path = next((place for place in places if place.is_file()), places[0])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a file or folder on this machine, or an http(s) address") from None
        source = str(path)
    if (digest := git_blob_hash(data)) != BLOB:
        raise UserError(f"{source}: not DPG-Bench's {FILE}: its git hash is {digest}, not {BLOB}; get it from {URL}")
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return target


def compare_prompts(benchmark: Benchmark, folder: Path) -> Sequence[str]:
    """Items whose prompts/ITEM.txt in ELLA's folder is missing or is not the CSV's text, outer spaces aside."""
    different = []
    for item_id, prompt in benchmark.prompts.items():
        path = folder / f"{item_id}.txt"
        if not path.is_file() or read_text(path, MAX_RECORD_BYTES).strip() != prompt.strip():
            different.append(item_id)
    return different
