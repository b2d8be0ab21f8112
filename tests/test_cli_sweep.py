"""`rf-repro sweep` where there is no SLURM: on a laptop, or before anything is submitted."""

import re
from pathlib import Path

import pytest

from rf_repro.cli import main
from rf_repro.core.files import read_json
from rf_repro.core.run_dir import RunDir
from rf_repro.evaluations.plan import load_plan
from slurm.profile import bundled_profiles, load_profile


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of a real one are in tests/slurm_cluster."""
    monkeypatch.setattr("slurm.sweep.shutil.which", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")


GRID = ["table3a", "--scale", "smoke"]


def test_a_plan_shows_every_action_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "plan", *GRID, "--seeds", "0-1", "--runs", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "profile: gpu-cluster (bundled example, " in out
    assert "a bundled example; name your own with --profile" in out
    assert "no SLURM on this machine: states are those of the files" in out
    for action in ("train", "sample", "evaluate", "report"):
        assert re.search(rf"^  {action} +{re.escape(load_profile(None).resources(action).describe())}$", out, re.MULTILINE)
    assert re.search(r"^stage-pretrain-s0 +missing +- +- ", out, re.MULTILINE)
    assert re.search(r"^vae_rf-s1 +missing +missing +missing +\?", out, re.MULTILINE)
    assert "12 runs: 12 missing; 0 of 28 actions done" in out
    assert "to submit: 28 jobs in 8 arrays, then the report" in out
    assert not any(tmp_path.iterdir())


def test_a_dry_run_prints_what_sbatch_would_get(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "submit", *GRID, "--only", "pixel", "--profile", "cpu", "--dry-run", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("#!/bin/bash") == out.count("--- sbatch call") == 5
    assert "#SBATCH --dependency='afterok:<1:train>'" in out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", *GRID], "squeue: no such command, so there is no SLURM on this machine; .*--cluster local, or --dry-run"),
        (["plan", "table9"], "table 'table9': unknown; choose one of"),
        (["plan", *GRID, "--only", "pixl"], "variant 'pixl': not in table3a; choose of pixel, pixel_rf"),
        (["plan", *GRID, "--seeds", "3-1"], "--seeds '3-1': must be whole numbers"),
        (["plan", *GRID, "--profile", "nowhere.yaml"], "nowhere.yaml"),
        (["plan", *GRID, "--profile", "gpu-cluter"], "gpu-cluster"),
        (["submit", *GRID, "--max-parallel", "0"], "--max-parallel 0: must be >= 1"),
        (["status"], "nothing was submitted from here; name the folder with --runs"),
        (["logs", "pixel-s0"], "nothing was submitted from here"),
        (["cancel"], "sweep cancel: name runs, or give --all"),
        (["cancel", "pixel-s0", "--all"], "sweep cancel: name runs, or give --all"),
        (["retry"], "nothing was submitted from here"),
        (["profile", "mine"], "profile 'mine': not bundled; choose one of cpu, "),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [] if arguments[0] == "profile" else ["--runs", str(tmp_path)]
    assert main(["sweep", *arguments, *runs]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert not any(tmp_path.iterdir())


def test_bundled_profiles_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "profile"]) == 0
    names = capsys.readouterr().out.split()
    assert names == bundled_profiles()
    assert {"local", "single-node", "gpu-cluster", "preemptible"} <= set(names)
    for name in names:
        assert main(["sweep", "profile", name]) == 0
        copy = tmp_path / f"{name}.yaml"
        copy.write_text(capsys.readouterr().out)
        assert load_profile(str(copy)).actions == load_profile(name).actions


@pytest.mark.slow
def test_the_same_jobs_run_here(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    runs, report = tmp_path / "runs", tmp_path / "report"
    command = ["sweep", "submit", *GRID, "--only", "pixel", "--cluster", "local", "--profile", "cpu",
               "--set", "evals.every=0", "--set", "stages.joint.steps=10"]  # fmt: skip
    assert main([*command, "--runs", str(runs), "--out", str(report)]) == 0
    assert f"report: {report / 'report.html'}" in capfd.readouterr().out
    assert [run.record().status for run in RunDir.find(runs)] == ["done", "done"]
    assert read_json(report / "claims.json")
    assert main(["sweep", "status", "--runs", str(runs)]) == 0
    assert "2 runs: 2 done; 4 of 4 actions done" in capfd.readouterr().out
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert main(["sweep", "logs", "pixel-s0", "--runs", str(runs)]) == 0
    assert "Job completed successfully" in capfd.readouterr().out


def test_the_bundled_evaluation_plan_is_printed_to_be_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "evaluations"]) == 0
    (tmp_path / "my-evals.yaml").write_text(capsys.readouterr().out)
    assert load_plan(str(tmp_path / "my-evals.yaml")) == load_plan(None)


@pytest.mark.parametrize("command", [["plan"], ["train", "--variant", "pixel"], ["sweep", "plan", "table3a"], ["reproduce"]])
def test_runs_that_score_themselves_take_no_evaluation_plan(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--scale", "smoke", "--evaluations", "mine.yaml"]) == 2
    assert "--evaluations mine.yaml: runs of data.world=scenes score themselves; leave it out" in capsys.readouterr().err
