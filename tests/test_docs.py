"""The example of docs/new_variant.md is a table that can be planned and reported as it stands; commands in documents parse."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ablations.grid import AblationGrid
from ablations.registry import GRIDS
from reports.build import build_report
from rf_repro.cli import make_parser
from rf_repro.launch.plan import make_plan
from tests.test_imports import FLOORS, WITHOUT_TORCH
from tests.test_paper_map import resolve

DOCS = Path(__file__).parents[1] / "docs"


def example_code() -> str:
    code, *_ = re.findall(r"```python\n(.*?)```", (DOCS / "new_variant.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 30
    return str(code)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> AblationGrid:
    """As if it stood in `ablations`."""
    names: dict[str, object] = {}
    exec(compile(example_code(), "new_variant.md", "exec"), names)
    grid = names["BALANCE"]
    assert isinstance(grid, AblationGrid)
    monkeypatch.setitem(GRIDS, grid.name, grid)
    return grid


def test_the_example_is_planned_and_shares_its_base_with_table_3a(example: AblationGrid, tmp_path: Path) -> None:
    plan = make_plan("tiny", ["table3a", example.name], None, tmp_path)
    variants = [job.variant for job in plan.jobs if job.kind == "variant"]
    assert variants == ["pixel", "pixel_rf", "vae", "vae_rf", "pixel_rf_algorithm1"]
    assert example.configs("tiny")["pixel_rf_algorithm1"].representation.balance == "algorithm1"


def test_the_example_is_found_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "balance.py").write_text(example_code(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    *_, last = make_plan("tiny", ["balance.py:BALANCE"], None, tmp_path).jobs
    assert last.variant == "pixel_rf_algorithm1"
    assert "balance.py:BALANCE" in (DOCS / "new_variant.md").read_text(encoding="utf-8")


def test_the_example_is_reported_without_published_values(example: AblationGrid, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    build_report([tmp_path / "runs"], tmp_path / "out", "tiny")
    assert "Pixel+RF, Algorithm 1" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


ROOT = DOCS.parent
COMMANDS = [
    (path.name, line.removeprefix("$ "))
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for line in ("" if language else block).splitlines()
    if re.match(r"(\$ )?rf-repro ", line)
]


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where}: {line}" for where, line in COMMANDS])
def test_commands_in_documents_parse(where: str, line: str) -> None:
    words = shlex.split(line.replace("submit ...", "submit table3a"), comments=True)
    words = words[: words.index(">")] if ">" in words else words
    assert make_parser().parse_args(words[1:]).run is not None


def test_there_are_commands_to_check() -> None:
    assert {where for where, _ in COMMANDS} >= {"README.md", "base.md", "geneval.md", "slurm.md"}


# docs/architecture.md


ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
_, FLOORS_TEXT, WAY_TEXT = ARCHITECTURE.split("\n## ")


def rows(text: str) -> list[list[str]]:
    """Cells of a Markdown table's rows, its head left out."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return found[2:]


def test_the_floors_are_those_that_the_imports_are_held_to() -> None:
    told = [tuple(re.findall(r"`([\w.]+)`", cells[0])) for cells in rows(FLOORS_TEXT)]
    assert told == list(reversed(FLOORS))


def test_what_is_said_to_need_no_torch_is_tested_for_it() -> None:
    told = {name for cells in rows(FLOORS_TEXT) if cells[2] for name in re.findall(r"`([\w.]+)`", cells[0])}
    untested = told - set(WITHOUT_TORCH) - {"rf_repro.commands", "rf_repro.lmms_eval_plugin"}
    assert not untested
    code = "import sys, rf_repro.cli; rf_repro.cli.make_parser(); import rf_repro.lmms_eval_plugin; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("name", re.findall(r"`((?:rf_repro|ablations|slurm|reports)\.[\w.]+)`", WAY_TEXT))
def test_each_step_of_the_way_is_where_it_is_said_to_be(name: str) -> None:
    resolve(name)


def test_the_way_has_all_its_steps() -> None:
    assert len(rows(WAY_TEXT)) == len(re.findall(r"^\| .*`(?:rf_repro|ablations|reports)\.", WAY_TEXT, re.MULTILINE)) >= 12
