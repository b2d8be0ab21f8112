"""The example of docs/new_variant.md is a table that can be planned and reported as it stands; commands in documents parse."""

import re
import shlex
from pathlib import Path

import pytest

from ablations.grid import AblationGrid
from ablations.registry import GRIDS
from reports.build import build_report
from rf_repro.cli import make_parser
from rf_repro.launch.plan import make_plan

DOCS = Path(__file__).parents[1] / "docs"


def example_code() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "new_variant.md").read_text(encoding="utf-8"), re.DOTALL)
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
