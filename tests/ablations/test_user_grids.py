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
        (('name="texts"', 'name="Table3A"'), "name='Table3A' is that of a table of the paper; give it one of its own"),
        (("CLAIMS = (", "CLAIMS = (1, "), "CLAIMS must be a tuple of ablations.claims.Claim"),
        (('"texts", "", ("geneval"', '"time", "", ("geneval"'), "claim .*: table 'time': is not there; choose of texts"),
        (('Difference("pixel", ', 'Difference("pix", '), "claim .*: row 'pix': is not there; choose of pixel, .*"),
        (('("geneval",)', '("dpg",)'), "claim 'text_matters': column 'dpg': is not there; choose of geneval"),
        (("text_matters", "rf_beats_pixel"), "claim 'rf_beats_pixel': the id is another claim's; give it one of its own"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert re.fullmatch(message, refusal(write_own_grid(tmp_path, change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name="texts"', "name=3"), "grid: name=3: must be text of one line"),
        (('name="texts"', 'name="../texts"'), "grid: name='../texts': must be of letters, digits, _ and -, .*"),
        (('"heavier_text", "Heavier', '"stage-vae", "Heavier'), "variant 'stage-vae': key='stage-vae': must be of letters, .*"),
        (('name="texts"', 'name=""'), "grid: name='': must be of letters, .*"),
        (('name="texts"', 'name="Stage-x"'), "grid: name='Stage-x': must be of letters, .*"),
        (('title="Texts of mine"', "title=None"), "texts: title=None: must be text of one line"),
        (('title="Texts of mine"', 'title=" "'), "texts: title=' ': must be text of one line, and not empty"),
        (('caption="Weights of text"', "caption=None"), "texts: caption=None: must be text of one line"),
        (('caption="Weights of text"', 'caption="a\\nb"'), r"texts: caption='a\\nb': must be text of one line"),
        (('section=""', "section=None"), "texts: section=None: must be text of one line"),
        (('base="pixel"', "base=PIXEL"), r"texts: base=Variant\(.*: must be text of one line"),
        (("(PIXEL, MINE)", '("pixel", MINE)'), r"texts: rows=\('pixel', .*: must be a tuple, each item of type Variant"),
        (("(PIXEL, MINE)", "()"), r"texts: rows=\(\): must be a tuple, .*, and not empty"),
        (("(PIXEL, MINE)", "PIXEL"), "texts: rows=Variant.*: must be a tuple, .*"),
        (('"heavier_text", "Heavier', '"Pixel", "Heavier'), "texts: rows have the key 'pixel' twice; .*"),
        (('"Heavier text"', '"Pixel"'), "texts: rows have the label 'Pixel' twice; .*"),
        (('"Heavier text"', "7"), "variant 'heavier_text': label=7: must be text of one line"),
        (('"Heavier text"', '""'), "variant 'heavier_text': label='': must be .*, and not empty"),
        (('"heavier_text", "Heavier', 'None, "Heavier'), "variant None: key=None: must be text of one line"),
        (('{"stages.joint.text_weight": 0.2}', '"x"'), "variant 'heavier_text': overrides='x': must be a mapping of dotted .*"),
        (('{"stages.joint.text_weight": 0.2}', "{3: 0.2}"), "variant 'heavier_text': overrides={3: 0.2}: must be a mapping .*"),
        (("columns=(GENEVAL,)", "columns=()"), r"texts: columns=\(\): must be a tuple, .*, and not empty"),
        (("columns=(GENEVAL,)", 'columns=("geneval",)'), r"texts: columns=\('geneval',\): must be a tuple, .* Column"),
        (("columns=(GENEVAL,)", "columns=GENEVAL"), "texts: columns=Column.*: must be a tuple, .* Column"),
        (("columns=(GENEVAL,)", "columns=(GENEVAL, GENEVAL)"), "texts: columns have the key 'geneval' twice; .*"),
        (("MINE = ", "MINE = replace(GENEVAL, tasks=())\nX = "), r"column 'geneval': tasks=\(\): must be .*, and not empty"),
        (("MINE = ", "MINE = replace(GENEVAL, metric=0)\nX = "), "column 'geneval': metric=0: must be text of one line"),
        (("MINE = ", "MINE = replace(GENEVAL, cluster='x')\nX = "), "column 'geneval': cluster='x': must be one of prompt, .*"),
        (("seeds=(0,)", 'seeds=(0,), real_columns="x"'), "texts: real_columns='x': must be a tuple, .*"),
        (("seeds=(0,)", "seeds=(0,), real_columns=(GENEVAL,) * 2"), "texts: real_columns have the key 'geneval' twice; .*"),
        (("seeds=(0,)", "seeds=()"), r"texts: seeds=\(\): must be a tuple, each item a whole number, and not empty"),
        (("seeds=(0,)", "seeds=(-1,)"), r"texts: seeds=\(-1,\): must be different and >= 0"),
        (("seeds=(0,)", "seeds=(1, 1)"), r"texts: seeds=\(1, 1\): must be different and >= 0"),
        (("seeds=(0,)", 'seeds=("0",)'), r"texts: seeds=\('0',\): must be a tuple, each item a whole number"),
        (("seeds=(0,)", "seeds=(True,)"), r"texts: seeds=\(True,\): must be a tuple, each item a whole number"),
        (('("geneval",), LIGHTER', '"geneval", LIGHTER'), "claim 'text_matters': columns='geneval': must be a tuple, .*"),
        (('("geneval",), LIGHTER', "(), LIGHTER"), r"claim 'text_matters': columns=\(\): must be .*, and not empty"),
        (('("geneval",), LIGHTER', '("geneval",) * 2, LIGHTER'), "claim 'text_matters': names the column 'geneval' twice; .*"),
        (('("geneval",), LIGHTER', '("geneval",), "pixel"'), "claim 'text_matters': comparison='pixel': must be of type .*"),
        (('"Lighter text beats heavier text"', "0"), "claim 'text_matters': statement=0: must be text of one line"),
        (('Difference("pixel", ', "Difference(0, "), "claim 'text_matters': Difference: better=0: must be text of one line"),
        (('"heavier_text")', '"heavier_text", "0.1")'), "claim 'text_matters': Difference: minimum='0.1': must be a number"),
        (('Difference("pixel", ', 'Difference("heavier_text", '), "claim 'text_matters': Difference names a row twice; .*"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_where_it_is_made(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    own = write_own_grid(tmp_path, ('"""Another', 'from dataclasses import replace\n"""Another'), change)
    assert re.fullmatch(rf"my_grid\.py, line \d+: {message}", refusal(own))


def test_a_claim_needs_its_column_in_both_worlds(tmp_path: Path) -> None:
    change = ("TEXTS = AblationGrid(", "from ablations.questions import BENCHMARKS\nTEXTS = AblationGrid("
              "real_columns=(BENCHMARKS['MMMU'],), ")  # fmt: skip
    wanted = "claim 'text_matters': real column 'geneval': is not there; choose of MMMU"
    assert refusal(write_own_grid(tmp_path, change)) == wanted


def test_a_name_may_start_at_home_but_must_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own_grid(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_grid("~/my_grid.py:TEXTS").name == "texts"
    assert refusal(":TEXTS") == "names no file; must be FILE.py:GRID"
    assert refusal("~nobody-at-all/my_grid.py:TEXTS").endswith("; write the folder out")


@pytest.mark.parametrize("line", ["import beside", "from beside.below import X", "from . import beside", "from .beside import X"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_an_import_of_a_file_beside_it_says_what_to_do(tmp_path: Path, line: str, is_folder: bool) -> None:
    if is_folder:
        (tmp_path / "beside").mkdir()
    else:
        (tmp_path / "beside.py").write_text("X = 1\n")
    said = refusal(write_own_grid(tmp_path, ("MINE = ", f"{line}\nMINE = ")))
    assert re.fullmatch(
        r"my_grid\.py, line 7: \w+Error: .*; a grid's file cannot import the files beside it: put what it needs of them into it",
        said,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("lambda base: {}['x']", "overrides, line 7: KeyError: 'x'"),
        ("lambda base: base.stage('nowhere')", "overrides, line 7: .*nowhere.*"),
        ("lambda base: exit()", "overrides, line 7: SystemExit.*"),
        ("lambda base: None", r"overrides\(base\)=None: must be a mapping of dotted paths to values"),
        ("lambda base: [('a', 1)]", r"overrides\(base\)=\[\('a', 1\)\]: must be a mapping of dotted paths to values"),
        ("{'nope': 1}", "nope: unknown field 'nope'; .*"),
        ("{'stages.joint.text_weight': 'x'}", "stages.joint.text_weight='x': must be float, not str"),
        ("{'stages.joint.text_weight': -1}", ".*text_weight=-1.*"),
    ],
)  # fmt: skip
def test_overrides_that_do_not_suit_the_scale_name_file_and_row(tmp_path: Path, overrides: str, message: str) -> None:
    name = write_own_grid(tmp_path, ('{"stages.joint.text_weight": 0.2}', overrides))
    with pytest.raises(UserError) as error:
        get_grids([name], BASE)
    assert re.fullmatch(rf"table '{name}': variant 'heavier_text': {message}", str(error.value))


def test_a_function_of_the_base_cannot_import_them_either(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("X = 1\n")
    name = write_own_grid(tmp_path, ('{"stages.joint.text_weight": 0.2}', "lambda base: __import__('beside').X"))
    with pytest.raises(UserError, match=r"variant 'heavier_text': overrides, line 7: .*; a grid's file cannot import the files"):
        get_grids([name], BASE)


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
    taken = write_own_grid(tmp_path, ('"heavier_text"', '"Pixel_RF"'), name="case.py")  # some disks do not tell case apart
    with pytest.raises(UserError, match="variant 'Pixel_RF': means one run in table3a and another in texts; give the row"):
        get_grids([taken], BASE)
    first = write_own_grid(tmp_path, name="first.py")
    changes = (("0.2}", "0.3}"), ('name="texts"', 'name="others"'), ("CLAIMS", "_"))
    second = write_own_grid(tmp_path, *changes, name="second.py")
    with pytest.raises(UserError, match="variant 'heavier_text': means one run in texts and another in others"):
        get_grids([first, second], BASE)


def test_a_key_that_means_the_same_run_elsewhere_is_that_run(tmp_path: Path) -> None:
    same = ("MINE = ", 'MINE = Variant("pixel_rf", "Mine", {"representation.kind": "discrete"})\nOTHER = ')
    (grid,) = get_grids([write_own_grid(tmp_path, same, ("CLAIMS", "_"))], BASE)
    assert grid.variant("pixel_rf").config(BASE) == GRIDS["table3a"].variant("pixel_rf").config(BASE)
