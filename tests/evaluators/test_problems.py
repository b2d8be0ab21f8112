"""A list of problems is replaced by the next one, and nothing else is."""

from pathlib import Path

import pytest

from evaluators.problems import Problem, report_problems
from rf_repro.core.errors import UserError


def test_a_list_goes_with_its_problems(tmp_path: Path) -> None:
    path, told = tmp_path / "problems.txt", list[str]()
    report_problems([Problem("missing", "00001", "no image")], path, told.append)
    assert path.read_text() == "missing: 00001: no image\n"
    report_problems([], path, told.append)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["text", "folder", "link"])
def test_anything_else_of_that_name_stays(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "problems.txt", tmp_path / "other.txt"
    other.write_text("missing: 00001: no image\n")
    if kind == "text":
        path.write_text("missing: 00001: no image\nWhat I still have to do\n")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    with pytest.raises(UserError, match="is not a list of problems that was written here; move it away"):
        report_problems([], path, lambda line: None)
    assert path.exists()
    assert other.exists()
