"""Grids of a user's own, found by FILE.py:GRID: loaded once, told apart from the paper's, and refused in one line."""

import re
from pathlib import Path

import pytest

from ablations.claims import CLAIMS
from ablations.grid import AblationGrid
from ablations.registry import GRIDS, get_claims, get_grid, get_grids
from rf_repro.config.scales import get_scale
from rf_repro.core.errors import UserError
from tests.own_grid import write_own_grid

BASE = get_scale("smoke")


def refusal(name: str) -> str:
    """The one line with which a name is refused."""
    with pytest.raises(UserError) as error:
        get_claims([name])
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"table {name!r}: ")
    return str(error.value).removeprefix(f"table {name!r}: ")


def test_a_grid_is_found_by_its_file_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_own_grid(tmp_path)
    grid = get_grid(name)
    assert isinstance(grid, AblationGrid)
    assert [row.key for row in grid.rows] == ["pixel", "heavier_text"]
    monkeypatch.chdir(tmp_path)
    assert get_grid("my_grid.py:TEXTS") is grid  # relative, and the file ran once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_grid.py"]  # nothing compiled is left beside it


def test_names_may_be_mixed_and_each_table_comes_once(tmp_path: Path) -> None:
    name = write_own_grid(tmp_path)
    assert [grid.name for grid in get_grids(["table3b", name, "table3b", name], BASE)] == ["table3b", "texts"]
    assert [grid.name for grid in get_grids([name, "all"], BASE)] == ["texts", *GRIDS]


def test_claims_of_the_file_come_after_the_papers(tmp_path: Path) -> None:
    name = write_own_grid(tmp_path)
    assert [claim.id for claim in get_claims(["table3a", name, name])] == [*(claim.id for claim in CLAIMS), "text_matters"]
    assert get_claims(["table3a"]) == CLAIMS
    assert get_claims([write_own_grid(tmp_path, ("CLAIMS =", "OTHERS ="), name="without.py")]) == CLAIMS


def test_two_grids_of_one_file_may_both_have_claims(tmp_path: Path) -> None:
    name = write_own_grid(tmp_path, ("CLAIMS =", "from dataclasses import replace\nMORE = replace(TEXTS, name='more')\nCLAIMS ="))
    more = name.replace(":TEXTS", ":MORE")
    assert get_claims([more]) == CLAIMS  # the claim is about the other one
    assert [grid.name for grid in get_grids([name, more], BASE)] == ["texts", "more"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rows=(PIXEL, MINE)", "rows=(PIXEL, MINE"), r"my_grid.py, line \d+: SyntaxError: .*"),
        (("MINE = ", "MINE = 1 / 0 + "), "my_grid.py, line 7: ZeroDivisionError: division by zero"),
        (("MINE = ", "import nowhere\nMINE = "), "my_grid.py, line 7: ModuleNotFoundError: No module named 'nowhere'"),
        (("MINE = ", "raise SystemExit\nMINE = "), "my_grid.py, line 7: SystemExit"),
        (("MINE = ", "raise ValueError('two\\nlines')\nMINE = "), "my_grid.py, line 7: ValueError: two lines"),
        (('base="pixel"', 'base="pixl"'), "my_grid.py, line 9: texts: base='pixl': must be the key of a row: pixel, .*"),
        (("(PIXEL, MINE)", "(PIXEL, PIXEL)"), "my_grid.py, line 9: texts: rows have the key 'pixel' twice; .*"),
        (("TEXTS = ", "TIME = "), "no such name in it; grids in it: TIME"),
        (("TEXTS = AblationGrid(", "TEXTS = dict("), "is of type dict, must be an AblationGrid; grids in it: none"),
        (('name="texts"', 'name="table3a"'), "name='table3a' is that of a table of the paper; give it one of its own"),
        (('name="texts"', 'name="table1"'), "name='table1' is that of a table of the paper; give it one of its own"),
        (('name="texts"', 'name="../texts"'), "name '../texts' must be of letters, digits, _ and -, and not begin with stage-"),
        (('"heavier_text", "Heavier', '"stage-vae", "Heavier'), "row key 'stage-vae' must be of letters, .*"),
        (("CLAIMS = (", "CLAIMS = (1, "), "CLAIMS must be a tuple of ablations.claims.Claim"),
        (('"texts", "", ("geneval"', '"time", "", ("geneval"'), "claim .*: table 'time': is not there; choose of texts"),
        (('Difference("pixel", ', 'Difference("pix", '), "claim .*: row 'pix': is not there; choose of pixel, .*"),
        (('("geneval",)', '("dpg",)'), "claim 'text_matters': column 'dpg': is not there; choose of geneval"),
        (("text_matters", "rf_beats_pixel"), "claim 'rf_beats_pixel': the id is another claim's; give it one of its own"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert re.fullmatch(message, refusal(write_own_grid(tmp_path, change)))


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/nowhere.py:GRID") == "no such file; name a grid of your own as FILE.py:GRID"
    assert refusal(f"{tmp_path}:GRID") == "cannot be read (Is a directory); name a grid of your own as FILE.py:GRID"
    (tmp_path / "grid.txt").write_text("")
    assert refusal(f"{tmp_path}/grid.txt:GRID") == "grid.txt is no Python file; name a grid of your own as FILE.py:GRID"
    name = write_own_grid(tmp_path)
    assert refusal(name.removesuffix(":TEXTS")) == "must be FILE.py:GRID; grids in it: TEXTS"
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    assert refusal(f"{tmp_path}/latin.py:GRID").startswith("latin.py, line 1: SyntaxError: ")


def test_two_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = write_own_grid(tmp_path), write_own_grid(tmp_path, ("Heavier text", "Heavy"), name="other.py")
    with pytest.raises(UserError, match=r"other\.py:TEXTS': another table asked for is called 'texts' too; rename one of them"):
        get_grids([first, second], BASE)


def test_a_key_that_means_another_run_elsewhere_is_refused(tmp_path: Path) -> None:
    """Of the paper's, whether that table is asked for or not: every report shows it. Of another file's, too."""
    taken = write_own_grid(tmp_path, ('"heavier_text"', '"vae"'))
    with pytest.raises(UserError, match="variant 'vae': means one run in table3a and another in texts; give the row of texts"):
        get_grids([taken], BASE)
    first = write_own_grid(tmp_path, name="first.py")
    changes = (("0.2}", "0.3}"), ('name="texts"', 'name="others"'), ("CLAIMS", "_"))
    second = write_own_grid(tmp_path, *changes, name="second.py")
    with pytest.raises(UserError, match="variant 'heavier_text': means one run in texts and another in others"):
        get_grids([first, second], BASE)


def test_a_key_that_means_the_same_run_elsewhere_is_that_run(tmp_path: Path) -> None:
    same = ("MINE = ", 'MINE = Variant("pixel_rf", "Mine", {"representation.kind": "discrete"})\nOTHER = ')
    (grid,) = get_grids([write_own_grid(tmp_path, same)], BASE)
    assert grid.variant("pixel_rf").config(BASE) == GRIDS["table3a"].variant("pixel_rf").config(BASE)
