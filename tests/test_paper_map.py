"""Every entry of PAPER_MAP.md points at code that can be imported and at a test that exists."""

import ast
import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = {"Sec. 3.1", "Sec. 3.2", "Sec. 3.3", "Sec. 4.1", "Sec. 4.4", "Fig. 3", "Eq. 1", "Eq. 2", "Eq. 3", "App. A", "Table 3a"}


@dataclass(frozen=True)
class Entry:
    paper: str
    symbols: tuple[str, ...]
    tests: tuple[str, ...]
    deviation: str


def entries(text: str) -> list[Entry]:
    """Rows of the table `Paper | What | Symbol | Test | Deviation`; symbols and tests are what stands in backticks."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "Paper" or set(cells[0]) <= set("-: "):
            continue
        assert len(cells) == 5, f"not five cells: {line}"
        found.append(Entry(cells[0], tuple(re.findall("`(.+?)`", cells[2])), tuple(re.findall("`(.+?)`", cells[3])), cells[4]))
    return found


def resolve(symbol: str) -> object:
    """What a dotted path names. Raises ImportError or AttributeError where it names nothing."""
    parts = symbol.split(".")
    for split in range(len(parts), 0, -1):
        path = ROOT / Path(*parts[:split])
        if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
            found = importlib.import_module(".".join(parts[:split]))
            if path.is_dir() and split < len(parts) and not hasattr(found, parts[split]):
                break  # a package that has neither such a module nor such a name
            return reduce(getattr, parts[split:], found)
    raise ImportError(f"{symbol}: no module of this project")


def has_test(reference: str) -> bool:
    path, _, name = reference.partition("::")
    file = ROOT / path
    if not name.startswith("test_") or not file.exists():
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(ast.parse(file.read_text())))


WHOLE, _, OPEN = (ROOT / "PAPER_MAP.md").read_text(encoding="utf-8").partition("## What the paper leaves open")
MAP = entries(WHOLE)
CHOICES = [[cell.strip() for cell in line.strip("|").split("|")] for line in OPEN.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("entry", MAP, ids=lambda entry: f"{entry.paper}: {', '.join(entry.symbols)}")
def test_an_entry_points_at_code_and_at_a_test(entry: Entry) -> None:
    assert entry.symbols
    assert entry.tests
    assert entry.deviation, "write `none` where there is no deviation"
    for symbol in entry.symbols:
        resolve(symbol)
    for reference in entry.tests:
        assert has_test(reference), reference


def test_the_required_parts_of_the_paper_are_there() -> None:
    named = {part.strip() for entry in MAP for part in entry.paper.split(",")}
    assert not REQUIRED - named


def test_the_check_can_fail() -> None:
    assert not has_test("tests/test_paper_map.py::test_that_is_not_there")
    assert not has_test("tests/gone.py::test_the_check_can_fail")
    assert has_test("tests/test_paper_map.py::test_the_check_can_fail")
    with pytest.raises(AttributeError):
        resolve("ablations.table3a.TABLE9")
    with pytest.raises(ImportError):
        resolve("rf_repro.magic.Model")
    with pytest.raises(AssertionError, match="not five cells"):
        entries("| Sec. 1 | only | three |")


@pytest.mark.parametrize("row", CHOICES, ids=[row[0] for row in CHOICES])
def test_every_choice_has_its_code_and_says_what_depends_on_it(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    (symbol,) = re.findall("`(.+?)`", row[2])
    assert resolve(symbol) is not None


def test_every_field_that_is_assumed_is_among_the_choices() -> None:
    named = set(re.findall("`(\\w+)`", OPEN))
    for path in sorted((ROOT / "rf_repro" / "config").glob("*_schema.py")):
        for field in re.findall(r"^    (\w+): .*# assumed", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert field in named, f"{path.name}: {field}"
