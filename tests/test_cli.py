"""The command line: help without torch, one clear line for a mistake, and nothing written before it is found."""

import argparse
import io
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rf_repro.cli import main, make_parser
from rf_repro.commands.options import grid_plan
from rf_repro.config.overrides import from_dict
from rf_repro.config.scales import tiny
from rf_repro.core.files import append_jsonl, read_json, read_jsonl
from rf_repro.core.run_dir import RunDir
from rf_repro.launch.forecast import Speed, pieces, seconds_left
from tests.waiting import SECONDS, wait_until

COMMANDS = (
    [],
    ["reproduce"],
    ["plan"],
    ["sweep"],
    *(["sweep", action] for action in ("plan", "submit", "status", "logs", "cancel", "retry", "profile")),
    ["train"],
    ["sample"],
    ["evaluate"],
    ["evaluate", "geneval"],
    ["evaluate", "geneval2"],
    ["evaluate", "geneval-vlm"],
    ["evaluate", "understanding"],
    ["evaluate", "compare"],
    ["data"],
    ["data", "fetch"],
    ["data", "rewrite"],
    ["report"],
    ["export"],
    ["config"],
)
HEAVY = ("torch", "numpy", "pandas", "matplotlib", "submitit", "rich", "transformers", "PIL")
REPRODUCE = ("reproduce", "--scale", "smoke", "--seeds", "0", "--set", "stages.joint.steps=10", "--set", "evals.every=0")


def rf_repro(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "rf_repro.cli", *arguments], cwd=folder, capture_output=True, text=True)


def parser_of(command: list[str]) -> argparse.ArgumentParser:
    parser = make_parser()
    for name in command:
        [action] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = action.choices[name]
    return parser


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_loads_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rf_repro.cli import main\n"
        f"try: main({[*command, '--help']})\n"
        f"except SystemExit as end: print('\\nLOADED', end.code, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.endswith("LOADED 0 []\n")
    assert "example: rf-repro" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_parses_and_a_default_for_every_option(command: list[str]) -> None:
    parser = parser_of(command)
    assert parser.epilog is not None
    program, *arguments = shlex.split(parser.epilog.removeprefix("example: "))
    assert program == "rf-repro"
    assert make_parser().parse_args(arguments).run is not None
    assert arguments[: len(command)] == command
    for action in parser._actions:
        if action.option_strings and not action.required and action.nargs != 0:
            assert "(default: " in (action.help or ""), action.option_strings
        if action.option_strings and action.default not in (None, [], argparse.SUPPRESS, False):
            assert str(action.default) in (action.help or ""), action.option_strings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("reproduce --scale huge", "scale 'huge': unknown; choose one of"),
        ("reproduce --scale paper", "data.sources=(): name data to train on by --data FILE"),
        ("reproduce --tables table9", "table 'table9': unknown; choose one of"),
        ("reproduce --seeds 0,x", "--seeds '0,x': must be whole numbers"),
        ("reproduce --seeds 1,1", "--seeds '1,1': must be different"),
        ("reproduce --seeds -1", "--seeds '-1': must be different and >= 0"),
        ("reproduce --jobs 0", "--jobs 0: must be >= 1"),
        ("reproduce --set model.depth=3", "model.depth: unknown field 'depth'"),
        ("reproduce --set model.decoder.width", "must be PATH=VALUE"),
        ("reproduce --set stages.joint.steps=3000", "already has this value"),
        ("reproduce --set stages.joint.steps=5 --set stages.joint.steps=6", "--set stages.joint.steps: given twice"),
        ("reproduce --runs a_file", "--runs a_file: "),
        ("reproduce --out a_file/below", "--out a_file/below: "),
        ("reproduce --device tpu", "invalid choice: 'tpu'"),
        ("reproduce --sed 1", "unrecognized arguments: --sed 1"),
        ("plan --scale huge", "scale 'huge': unknown"),
        ("train --variant pixel_xl", "variant 'pixel_xl': not in table3a"),
        ("train", "the following arguments are required: --variant"),
        ("train --variant pixel --threads 0", "--threads 0: must be >= 1"),
        ("sample nowhere --prompt a --out images", "nowhere: is not a run directory"),
        ("evaluate geneval nowhere --detector scenes", "nowhere: no such folder of images"),
        ("config tiny:table3a/pixel_xl", "variant 'pixel_xl': not in table3a"),
        ("report --runs nowhere", "nowhere: no such folder"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_writes_nothing(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("")
    try:
        status = main(shlex.split(arguments))
    except SystemExit as end:  # argparse
        status = int(str(end.code))
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("rf-repro: error: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_no_traceback_reaches_the_user(tmp_path: Path) -> None:
    done = rf_repro("plan", "--scale", "huge", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rf-repro: error: scale 'huge': unknown; choose one of smoke, tiny, small, base, paper\n"


def test_config_prints_yaml_that_is_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "tiny"]) == 0
    assert from_dict(yaml.safe_load(capsys.readouterr().out)) == tiny()
    assert main(["config", "tiny:table3a/pixel_rf", "--set", "stages.joint.steps=7"]) == 0
    config = from_dict(yaml.safe_load(capsys.readouterr().out))
    assert (config.representation.kind, config.stage("joint").steps) == ("discrete", 7)


def test_config_prints_the_difference_of_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "tiny:table3a/pixel", "tiny:table3a/pixel_rf", "--set", "stages.joint.steps=7"]) == 0
    assert capsys.readouterr().out.splitlines() == ["stages.joint.steps: 3000 -> 7", "representation.kind: none -> discrete"]


def test_plan_prints_every_run_with_its_state_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--scale", "smoke", "--seeds", "0,1", "--tables", "table3a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    paths = [line.split()[-1] for line in lines[1:-1]]
    assert len(paths) == len(set(paths)) == 12
    assert all(line.startswith("missing") for line in lines[1:-1])
    assert lines[-1] == "12 runs: 12 missing; 12 left"
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `reproduce` has run at scale `smoke`, one seed, a third of the steps."""
    folder = tmp_path_factory.mktemp("smoke")
    done = rf_repro(*REPRODUCE, folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def variant_dir(folder: Path, key: str) -> RunDir:
    [path] = (folder / "runs" / "smoke" / key).iterdir()
    return RunDir(path)


@pytest.mark.slow
def test_reproduce_goes_from_nothing_to_a_report(smoke: Path) -> None:
    for key in ("stage-pretrain", "stage-vae", "pixel", "pixel_rf", "vae", "vae_rf"):
        assert variant_dir(smoke, key).record().status == "done"
    output = (smoke / "stdout.txt").read_text()
    for label, key in (("Pixel", "pixel"), ("Pixel+RF", "pixel_rf"), ("VAE", "vae"), ("VAE+RF", "vae_rf")):
        result = variant_dir(smoke, key).eval_result("geneval")
        assert result is not None
        assert result.metrics["overall"] is not None
        assert re.search(rf"^  {re.escape(label)} +GenEval +{result.metrics['overall']:.3f} ", output, re.MULTILINE)
    assert "Pixel+RF beats Pixel (table3a): " in output
    assert (smoke / "report" / "report.md").exists()
    assert (smoke / "report" / "claims.json").exists()


@pytest.mark.slow
def test_the_forecast_waits_for_what_a_run_leaves(smoke: Path) -> None:
    """Every file whose lack counts as work is one that a finished run has, by its own code."""
    parser = make_parser().parse_args([*REPRODUCE, "--runs", str(smoke / "runs")])
    jobs = grid_plan(parser).jobs
    assert len(jobs) == 6
    for job in jobs:
        assert [piece.record for piece in pieces(job) if not (job.run.path / piece.record).exists()] == [], job.name
        assert seconds_left(job, Speed(), job.steps) == 0
        scored = [path for path in job.run.evals.glob("geneval*.json") if not path.stem.endswith("items")]
        assert len(scored) == sum(piece.scored > 0 for piece in pieces(job)), job.name  # and it counts all of them


@pytest.mark.slow
def test_reproducing_again_trains_nothing(smoke: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (smoke / "runs").rglob("*") if path.is_file()}
    done = rf_repro(*REPRODUCE, folder=smoke)
    assert done.returncode == 0
    assert "6 of 6 runs are done already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (smoke / "runs").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_evaluating_the_samples_again_gives_the_runs_scores(smoke: Path) -> None:
    run = variant_dir(smoke, "pixel_rf")
    done = rf_repro("evaluate", "geneval", str(run.samples), "--detector", "scenes", "--out", "again", folder=smoke)
    assert done.returncode == 0, done.stderr
    recorded = run.eval_result("geneval")
    assert recorded is not None
    printed = dict(line.split() for line in done.stdout.splitlines()[:-1])
    assert printed == {name: f"{value:.4f}" for name, value in recorded.metrics.items()}
    assert read_jsonl(smoke / "again" / "geneval.items.jsonl") == run.eval_items("geneval")
    assert read_json(smoke / "again" / "geneval.json")["protocol"] == recorded.protocol
    assert len(read_jsonl(smoke / "again" / "results.jsonl")) == recorded.n


@pytest.mark.slow
def test_runs_that_diverge_fail_by_name_and_the_report_is_still_built(smoke: Path) -> None:
    for stage in ("stage-pretrain", "stage-vae"):
        shutil.copytree(smoke / "runs" / "smoke" / stage, smoke / "diverging" / "smoke" / stage)
    command = "reproduce --scale smoke --seeds 0 --set stages.joint.learning_rate=1e30 --runs diverging --out diverged"
    done = rf_repro(*command.split(), folder=smoke)
    assert done.returncode == 1
    assert "2 of 6 runs are done already" in done.stderr  # the shared stages do not depend on it
    for name in ("pixel s0", "pixel_rf s0", "vae s0", "vae_rf s0"):
        assert re.search(rf"^{name}: failed: rf_repro\.core\.errors\.TrainingDiverged: step \d+", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert done.stdout.count("not run") == 4 + 6  # rows, and claims about them
    assert (smoke / "diverged" / "report.html").exists()


@pytest.mark.slow
def test_sampling_draws_what_was_asked_and_the_same_again(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke)
    command = ["sample", str(variant_dir(smoke, "pixel").path), "--prompt", "a photo of a red circle"]
    done = rf_repro(*command, "--num", "3", "--out", "one", folder=smoke)
    assert done.returncode == 0, done.stderr
    assert main([*command, "--num", "3", "--out", "two"]) == 0
    digests = []
    for printed in (done.stdout, capsys.readouterr().out):
        images = [smoke / line for line in printed.splitlines()]
        assert len(images) == 3
        digests.append([image.read_bytes() for image in images])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 3
    assert main([*command, "--out", "one"]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("rf-repro: error: one: is not empty, it holds images of num samples 3, not 4")


@pytest.mark.slow
def test_ctrl_c_stops_training_with_a_word_on_how_to_resume(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rf_repro.cli", "train", "--scale", "smoke", "--variant", "pixel"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: any(tmp_path.glob("runs/smoke/*/*/metrics.jsonl")), process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert errors.endswith("rf-repro: stopped; run the same command again to resume\n")
    assert "Traceback" not in errors


def test_bars_show_phase_steps_loss_and_time(tmp_path: Path) -> None:
    """The terminal display, drawn to a terminal that is a string."""
    from rich.console import Console

    from rf_repro.launch.display import BarDisplay
    from rf_repro.launch.progress import Watch
    from tests.launch.workers import smoke_plan

    plan = smoke_plan(tmp_path)
    plan.create()
    append_jsonl(plan.jobs[1].run.metrics_path, {"step": 12, "loss": 0.125})
    watch = Watch(plan.jobs[1])
    watch.update()
    output = io.StringIO()
    with BarDisplay(Console(file=output, force_terminal=True, width=120)) as display:
        display.update([watch], finished=1, total=5)
        drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
        display.update([], finished=5, total=5)
    assert re.search(r"pixel s0 .*train 12/30, loss 0\.125, 0:00 elapsed, - left", drawn)
    assert re.search(r"all runs .*1/5", drawn)
