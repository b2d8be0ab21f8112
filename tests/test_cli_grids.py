"""A grid of the user's own wherever a command takes a table's name."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from ablations.registry import GRIDS
from rf_repro.cli import main
from rf_repro.core.files import read_json
from rf_repro.core.run_dir import RunDir
from slurm.submission import Ledger
from tests.own_grid import write_own_grid
from tests.reports.runs import make_items, write_geneval, write_run

QUICK = ["--set", "evals.every=0", "--set", "evals.images_per_task=1", "--set", "stages.joint.steps=4"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name, from the folder where one is."""
    write_own_grid(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slurm.sweep.shutil.which", lambda name: None)
    return "my_grid.py:TEXTS"


@pytest.mark.parametrize("option", ["--tables", "--grid"])
def test_plan(own: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--scale", "smoke", option, f"table3b,{own}", "--seeds", "0"]) == 0
    out = capsys.readouterr().out
    assert [path.split("/")[2] for path in re.findall(r"runs/smoke/\S+", out)] == [
        "stage-pretrain", "pixel", "repa", "pixel_rf", "heavier_text",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [["--tables", "table3b", "--grid", "OWN"], ["--grid", "OWN", "--tables", "table3b"], ["--tables", "table3b,~/OWN"]],
    ids=" ".join,
)
def test_tables_of_several_options_are_joined(
    own: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = [option.replace("OWN", own) for option in options]
    assert main(["plan", "--scale", "smoke", *options]) == 0
    assert {path.split("/")[2] for path in re.findall(r"runs/smoke/\S+", capsys.readouterr().out)} == {
        "stage-pretrain", "pixel", "repa", "pixel_rf", "heavier_text",
    }  # fmt: skip
    estimate = ["estimate", "--scale", "tiny", "--gpus", "1", "--json"]
    assert main([*estimate, *options]) == 0
    assert set(json.loads(capsys.readouterr().out)["tables"]) == {"table3b", "texts"}
    assert main(estimate) == 0  # what one command was told is none of the next one's
    assert set(json.loads(capsys.readouterr().out)["tables"]) == set(GRIDS)
    (tmp_path / "runs").mkdir()
    assert main(["report", "--scale", "smoke", *options]) == 0
    assert "## Texts of mine" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_sweep_joins_them_too(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "plan", "--grid", "table3b", "--grid", own, "--scale", "smoke", "--profile", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "repa-s0" in out
    assert "heavier_text-s0" in out


def test_one_run_is_of_one_table(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pair in (["--table", "table3a", "--grid", own], ["--table", f"table3a,{own}"]):
        assert main(["train", "--scale", "smoke", "--variant", "pixel", *pair]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"rf-repro: error: --table table3a,{own}: must be one table, that of --variant; name it once"
    assert not (tmp_path / "runs").exists()


def test_config(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", f"smoke:{own}/heavier_text"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["stages"][1]["text_weight"] == 0.2
    assert main(["config", "smoke:table3a/pixel", f"smoke:{tmp_path}/{own}/heavier_text"]) == 0  # slashes before the name
    assert capsys.readouterr().out == "stages.joint.text_weight: 0.1 -> 0.2\n"
    assert main(["config", f"smoke:{own}/plain"]) == 2
    assert "variant 'plain': not in texts; choose one of pixel, heavier_text" in capsys.readouterr().err


def test_estimate(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "--scale", "tiny", "--gpus", "1", "--json", "--variant", "heavier_text"]
    assert main([*command, "--tables", f"table1,{own}"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert set(estimate["tables"]) == {"table1", "texts"}
    assert main(command) == 2
    assert "--variant 'heavier_text': unknown" in capsys.readouterr().err


def test_sweep_plan_and_dry_run_write_nothing(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in ([own], ["--grid", own]):
        assert main(["sweep", "plan", *asked, "--scale", "smoke", "--profile", "cpu"]) == 0
        assert re.search(r"^heavier_text-s0 +missing +missing +missing", capsys.readouterr().out, re.MULTILINE)
    assert main(["sweep", "submit", own, "--scale", "smoke", "--profile", "cpu", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("--- sbatch call") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["my_grid.py"]


def test_what_was_submitted_outlives_its_file(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slurm.submission import Request

    ledger = Ledger(tmp_path / "runs")
    asked = Request("smoke", ["table3b", own], None, [], {}, False, str(tmp_path / "out"), "cpu", None)
    kept = ledger.keep(asked)
    assert kept.tables[0] == "table3b"
    assert kept.plan(ledger.runs) == asked.plan(ledger.runs)
    assert ledger.keep(asked) == ledger.keep(kept) == kept  # asked for again, or retried: the same request
    ledger.write_request(kept)
    write_own_grid(tmp_path, ('"heavier_text"', '"edited"'))
    (tmp_path / "my_grid.py").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (later,) = Ledger(tmp_path / "runs").requests()
    assert [job.variant for job in later.plan(ledger.runs).jobs][-1] == "heavier_text"


def test_an_edited_file_is_another_request(tmp_path: Path) -> None:
    from dataclasses import replace

    from slurm.submission import Request

    ledger = Ledger(tmp_path / "runs")
    asked = Request("smoke", [write_own_grid(tmp_path)], None, [], {}, False, str(tmp_path / "out"), "cpu", None)
    before = ledger.keep(asked)
    (tmp_path / "other").mkdir()
    after = ledger.keep(replace(asked, tables=[write_own_grid(tmp_path / "other", ('"heavier_text"', '"edited"'))]))
    assert before.digest != after.digest
    assert [job.variant for job in after.plan(ledger.runs).jobs][-1] == "edited"
    assert [job.variant for job in before.plan(ledger.runs).jobs][-1] == "heavier_text"


def test_a_lost_copy_is_one_line(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "status", "--runs", str(tmp_path / "runs")]
    from slurm.submission import Request

    ledger = Ledger(tmp_path / "runs")
    kept = ledger.keep(Request("smoke", [own], None, [], {}, False, str(tmp_path / "out"), "cpu", None))
    ledger.write_request(kept)
    assert main(command) == 0
    assert "heavier_text-s0" in capsys.readouterr().out
    Path(kept.tables[0].removesuffix(":TEXTS")).unlink()
    from ablations.user_grids import _load

    _load.cache_clear()  # as in a later process
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("my_grid.py:TEXTS': no such file; name a grid of your own as FILE.py:GRID")


def test_the_report_shows_it_beside_the_papers(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong, weak = make_items(lambda task, index, sample: index < 3), make_items(lambda task, index, sample: index == 0)
    write_geneval(write_run(tmp_path / "runs", "pixel", 0), strong)
    change = {"stages.joint.text_weight": 0.2}
    mine = write_run(tmp_path / "runs", "pixel", 0, change=change)
    moved = tmp_path / "runs" / "smoke" / "heavier_text" / mine.path.name
    moved.parent.mkdir()
    mine.path.rename(moved)
    record = read_json(moved / "run.json") | {"variant": "heavier_text"}
    (moved / "run.json").write_text(json.dumps(record))
    write_geneval(RunDir(moved), weak)
    assert main(["report", "--scale", "smoke", "--tables", own, "--readme", str(_readme(tmp_path))]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Texts of mine: Weights of text\n" in text
    assert text.index("## Table 3e") < text.index("## Texts of mine")
    assert "Weights of text." in text
    assert re.search(r"\| Heavier text \| 0\.250 \[[^|]*\| 48 \| 0 \|", text)  # no column of published values
    assert "| Lighter text beats heavier text (`text_matters`) | Texts of mine | **agrees with the claim (one seed)** |" in text
    assert "Not a claim of the paper's." in text
    with open(tmp_path / "report" / "tables" / "texts.csv", encoding="utf-8", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert (float(rows["pixel"]["measured"]), float(rows["heavier_text"]["measured"])) == pytest.approx((0.75, 0.25))
    assert rows["pixel"]["paper"] == ""
    claim = read_json(tmp_path / "report" / "claims.json")[-1]
    assert (claim["id"], claim["table"], claim["difference"]) == ("text_matters", "texts", pytest.approx(0.5))
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Heavier text" in page
    assert "| Lighter text beats heavier text (Texts of mine) | – |" in _readme(tmp_path).read_text(encoding="utf-8")


def _readme(folder: Path) -> Path:
    from reports.readme import markers

    path = folder / "README.md"
    if not path.exists():
        path.write_text("{}\n{}\n".format(*markers("smoke")))
    return path


def test_a_report_without_it_is_that_of_the_paper(own: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["report", "--scale", "smoke"]) == 0
    assert "Texts of mine" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "--tables"], ["reproduce", "--tables"], ["estimate", "--gpus", "1", "--tables"],
        ["train", "--variant", "x", "--table"],
        ["report", "--tables"], ["sweep", "plan"], ["sweep", "submit"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_refuses_a_file_that_is_not_there_in_one_line(
    own: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "my_grids.py:TEXTS"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "rf-repro: error: table 'my_grids.py:TEXTS': no such file; name a grid of your own as FILE.py:GRID"
    assert [path.name for path in tmp_path.iterdir()] == ["my_grid.py"]


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "--grid"], ["reproduce", "--grid"], ["estimate", "--gpus", "1", "--grid"], ["report", "--grid"],
        ["train", "--variant", "pixel", "--grid"], ["sweep", "plan"], ["sweep", "submit"], ["sweep", "submit", "--dry-run"],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('Difference("pixel", ', 'Difference("pix", '), "claim 'text_matters': row 'pix': is not there; choose of pixel, .*"),
        (("columns=(GENEVAL,)", "columns=()"), r"wrong.py, line 9: texts: columns=\(\): must be a tuple, .*"),
        (('{"stages.joint.text_weight": 0.2}', "lambda base: 1 / 0"), "variant 'heavier_text': overrides, line 7: Zero.*"),
        (('{"stages.joint.text_weight"', '{"nope"'), "variant 'heavier_text': nope: unknown field 'nope'; .*"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_before_anything_is_written(
    own: str, command: list[str], change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own_grid(tmp_path, change, name="wrong.py")
    assert main([*command, "wrong.py:TEXTS", "--scale", "smoke"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"rf-repro: error: table 'wrong.py:TEXTS': {message}", line)
    assert {path.name for path in tmp_path.iterdir()} == {"my_grid.py", "wrong.py"}


def test_config_names_file_and_row(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_own_grid(tmp_path, ('{"stages.joint.text_weight"', '{"nope"'), name="wrong.py")
    assert main(["config", "smoke:wrong.py:TEXTS/heavier_text"]) == 2
    assert "table 'wrong.py:TEXTS': variant 'heavier_text': nope: unknown field" in capsys.readouterr().err
    assert main(["plan", "--scale", "smoke", "--set", "representation.kind=discrete"]) == 2
    assert "variant 'pixel_rf': representation.kind='discrete': already has this value" in capsys.readouterr().err


@pytest.mark.slow
def test_reproduce_from_nothing_to_the_report(own: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--scale", "smoke", "--grid", own, "--device", "cpu", *QUICK]) == 0
    out = capfd.readouterr().out
    assert "\nTexts of mine, scale smoke: Weights of text\n" in out
    assert re.search(r"^  Heavier text    GenEval   \d\.\d{3} \(\d\.\d{3} by seed\)$", out, re.MULTILINE)
    assert re.search(r"^  Lighter text beats heavier text \(texts\): .*, 95% interval ", out, re.MULTILINE)
    assert {run.record().variant: run.record().status for run in RunDir.find(tmp_path / "runs")} == {
        "stage-pretrain": "done", "pixel": "done", "heavier_text": "done",
    }  # fmt: skip
    assert "Heavier text" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "RUN", "--prompt", "a photo of a red circle", "--out", "out"], ["export", "RUN", "--out", "out"],
        ["evaluate", "geneval", "IMAGES", "--detector", "scenes"], ["evaluate", "geneval", "IMAGES", "--run", "RUN"],
        ["evaluate", "understanding", "--benchmarks", "mmmu", "--data", ".", "--model", "RUN", "--run", "RUN", "--out", "out"],
    ],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
def test_a_run_of_a_kind_that_is_gone_is_named(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grid's file named the kind once; a later checkout, or another machine, has no such file."""
    monkeypatch.chdir(tmp_path)
    run = write_run(Path("runs"), "pixel", 0)
    config = run.config()
    config["representation"]["kind"] = "residual"
    run.config_path.write_text(json.dumps(config))
    names = {"RUN": str(run.path), "IMAGES": str(run.samples)}
    run.samples.mkdir()
    assert main([names.get(word, word) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rf-repro: error: ")
    assert f"{run.config_path}: representation.kind='residual': must be one of continuous, " in line
    assert not (tmp_path / "out").exists()
