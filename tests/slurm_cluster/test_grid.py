"""A whole grid through preemption, a time limit, SIGKILL and a restart of the controller: every row ends where it would have."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.cli import main
from rf_repro.core.run_dir import RunDir
from rf_repro.launch.plan import make_plan
from slurm.submission import Ledger
from slurm.sweep import all_sweeps
from tests.slurm_cluster.cluster import restart_controller, run, sbatch, squeue, wait_until
from tests.train.test_trainer import assert_same_run

STEPS = {"stages.joint.steps": 240, "evals.every": 0}  # long enough to be met at work
MEDIUM, SHORT = ({**STEPS, "stages.joint.steps": steps} for steps in (120, 40))


def grid_of(steps: dict[str, int]) -> list[str]:
    return ["table3a", "--scale", "smoke", *(part for path, value in steps.items() for part in ("--set", f"{path}={value}"))]


GRID = grid_of(STEPS)
ROWS = ("pixel", "pixel_rf", "vae", "vae_rf")

PROFILE = """\
resources: {cpus_per_task: 1, memory: 1GB, time: 1m}
signal_seconds: 5
device: cpu
"""


def sweep(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `rf-repro sweep` prints."""
    status = main(["sweep", *arguments])
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def submitted(text: str) -> dict[str, int]:
    """Action -> sbatch calls, from what `sweep submit` printed."""
    calls = re.findall(r"^job \d+: (\w+)", text, re.MULTILINE)
    return {action: calls.count(action) for action in calls}


def find(runs: Path, variant: str) -> RunDir:
    (run,) = RunDir.find(runs / "smoke" / variant)
    return run


def last_step(run: RunDir) -> int:
    return int(run.metrics()[-1]["step"]) if run.metrics() else 0


def worker(run: RunDir) -> int:
    """The pid of the process at work, once it has trained some steps."""
    wait_until(lambda: run.record().attempts and last_step(run) >= 20, 60, f"{run.path} trains")
    return run.record().attempts[-1].pid


def is_stage_done(runs: Path) -> bool:
    return states(runs)["stage-pretrain-s0"] == "done"


def states(runs: Path) -> dict[str, str]:
    return {row.job.slug: row.state for one in all_sweeps(Ledger(runs)) for row in one.rows}


def undisturbed(folder: Path) -> "subprocess.Popen[bytes]":
    """The same grid on this machine, while the cluster waits for its clocks."""
    command = [
        sys.executable,
        "-m",
        "rf_repro.cli",
        "reproduce",
        "--tables",
        *GRID,
        "--seeds",
        "0",
        "--jobs",
        "1",
        "--device",
        "cpu",
    ]
    out = ["--runs", str(folder / "runs"), "--out", str(folder / "report")]
    return subprocess.Popen([*command, *out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_grid_survives_what_happens_on_clusters(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peace = tmp_path / "peace"
    peace.mkdir()
    profile, report = tmp_path / "profile.yaml", tmp_path / "report"
    profile.write_text(PROFILE)
    submit = ["submit", *GRID, "--runs", str(runs), "--profile", str(profile), "--out", str(report)]
    assert submitted(sweep(capsys, *submit)) == {"train": 3, "sample": 2, "evaluate": 2, "report": 1}
    assert "nothing to submit" in sweep(capsys, *submit)
    wait_until(lambda: all(find(runs, key).record().attempts for key in ROWS), 90, "all four rows start")

    preempted, timed_out, killed, moved = (find(runs, key) for key in ROWS)
    os.kill(worker(timed_out), signal.SIGSTOP)  # it hangs, until SLURM wakes it to say that its time is over
    os.kill(worker(killed), signal.SIGKILL)
    worker(preempted)
    run("scancel", "--signal=USR2", str(preempted.record().attempts[-1].job_id))
    worker(moved)
    run("scontrol", "requeue", str(moved.record().attempts[-1].job_id))  # as an administrator does
    wait_until(lambda: len(killed.record().attempts) >= 2, 60, "the killed run starts again")
    restart_controller()
    assert "nothing to submit" in sweep(capsys, *submit)
    with undisturbed(peace) as other:
        wait_until(lambda: set(states(runs).values()) == {"done"}, 200, "every row ends")
        wait_until((report / "report.html").exists, 60, "the last job builds the report")
        assert other.wait() == 0

    assert "nothing to submit" in sweep(capsys, *submit)
    trained = {key: [one for one in find(runs, key).record().attempts if one.action == "train"] for key in ROWS}
    ends = {key: [one.error if one.seconds is not None else "killed" for one in attempts] for key, attempts in trained.items()}
    for key in ROWS:  # a slow machine meets the time limit more than once
        first, *between, last = ends[key]
        assert first == "killed" if key == "vae" else str(first).startswith("Stopped: ")
        assert all(str(one).startswith("Stopped: ") for one in between)
        assert last is None
    assert all(len({one.job_id for one in attempts}) == 1 for attempts in trained.values())  # requeued, never submitted anew
    for key in (*ROWS, "stage-pretrain", "stage-vae"):
        own, expected = find(runs, key), find(peace / "runs", key)
        assert_same_run(expected, own, metrics=False)
        assert own.eval_names() == expected.eval_names()
        assert all(own.eval_result(name) == expected.eval_result(name) for name in own.eval_names())
        steps = [row["step"] for row in own.metrics()]
        assert steps == sorted(set(steps))
        others = [one.action for one in own.record().attempts if one.action != "train"]
        assert others == (["sample", "evaluate"] if key in ROWS else [])  # nothing was done twice
    assert {claim["id"] for claim in json.loads((report / "claims.json").read_text())} >= {"rf_beats_pixel"}


TWO_NODES = """\
resources: {partition: preempt, nodes: 2, tasks_per_node: 1, cpus_per_task: 1, memory: 1GB, time: 10m}
signal_seconds: 60
device: cpu
"""


def test_ranks_on_two_nodes_are_preempted_and_lose_one_of_them(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Preemption by a partition above; then SIGKILL of the second rank. The weights are those of two ranks left in peace."""
    profile = tmp_path / "profile.yaml"
    profile.write_text(TWO_NODES)
    grid = [*GRID, "--only", "pixel_rf", "--profile", str(profile), "--out", str(tmp_path / "report")]
    peace = tmp_path / "peace"
    sweep(capsys, "submit", *grid, "--runs", str(peace))
    wait_until(lambda: set(states(peace).values()) == {"done"}, 200, "the undisturbed grid ends")
    expected = find(peace, "pixel_rf")
    assert [one.ranks for one in expected.record().attempts] == [2, 1, 1]

    sweep(capsys, "submit", *grid, "--runs", str(runs))
    wait_until(lambda: is_stage_done(runs) and find(runs, "pixel_rf").record().attempts, 120, "the row starts")
    own = find(runs, "pixel_rf")
    first = worker(own)
    above = sbatch("sleep 2", tmp_path, "--partition=main", "--nodes=2", "--exclusive")
    wait_until(
        lambda: len(own.record().attempts) == 2 and last_step(own) >= 100, 120, "the preempted row starts again and gets on"
    )
    assert first != own.record().attempts[1].pid
    (second,) = [pid for pid in workers(tmp_path / "runs") if pid != own.record().attempts[1].pid]
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: set(states(runs).values()) == {"done"}, 200, "the row ends")
    attempts = [one for one in own.record().attempts if one.action == "train"]
    assert [one.ranks for one in attempts] == [2, 2, 2]
    assert (attempts[0].error or "").startswith("Stopped: ")
    assert attempts[0].job_id == attempts[1].job_id == attempts[2].job_id != above
    assert [one.from_step > 0 for one in attempts] == [False, True, True]
    assert_same_run(expected, own, metrics=False)


def workers(runs: Path) -> list[int]:
    """Processes of run jobs that work below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "submitit.core._submit" in words and any(str(runs) in word for word in words) and "srun" not in words[0]:
            found.append(int(path.parent.name))
    return found


def test_a_row_that_fails_stops_nothing_else_and_is_tried_again_when_asked(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE.replace("1m", "5m"))
    report = tmp_path / "report"
    grid = [*grid_of(SHORT), "--only", "pixel,pixel_rf", "--profile", str(profile), "--out", str(report), "--runs", str(runs)]
    plan = make_plan("smoke", ["table3a"], [0], runs, SHORT, only=["pixel", "pixel_rf"])
    plan.create()
    damaged = next(job.run for job in plan.jobs if job.variant == "pixel").checkpoints / "step-000010"
    damaged.mkdir(parents=True)
    (damaged / "state.json").write_text("{}")
    sweep(capfd, "submit", *grid)
    wait_until((report / "report.html").exists, 200, "the report is built although a row failed")
    assert states(runs) == {"stage-pretrain-s0": "done", "pixel-s0": "failed", "pixel_rf-s0": "done"}
    (pixel,) = [row for one in all_sweeps(Ledger(runs)) for row in one.rows if row.job.variant == "pixel"]
    assert [one.state for one in pixel.actions.values()] == ["failed", "blocked", "blocked"]
    assert "corrupt checkpoint" in pixel.actions["train"].reason
    assert not any(row.job.startswith(f"{pixel.record.attempts[0].job_id}") and row.state == "PENDING" for row in squeue())
    assert "corrupt checkpoint" in sweep(capfd, "logs", "pixel-s0", "--runs", str(runs))
    assert "corrupt checkpoint" in sweep(capfd, "status", "--runs", str(runs))

    again = sweep(capfd, "submit", *grid)
    assert "nothing to submit" in again
    assert "failed before and left alone: pixel-s0; see `rf-repro sweep retry`" in again
    (damaged / "state.json").unlink()
    damaged.rmdir()
    assert submitted(sweep(capfd, "retry", "--runs", str(runs))) == {"train": 1, "sample": 1, "evaluate": 1, "report": 1}
    wait_until(lambda: set(states(runs).values()) == {"done"}, 100, "the failed row ends")
    assert "nothing to retry" in sweep(capfd, "retry", "--runs", str(runs))


def test_a_run_that_is_killed_every_time_is_given_up_and_a_cancelled_one_stays_so(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE.replace("1m", "5m") + "max_crashes: 1\n")
    folders = ["--profile", str(profile), "--out", str(tmp_path / "report"), "--runs", str(runs)]
    grid = [*grid_of(MEDIUM), "--only", "pixel,pixel_rf", *folders]
    sweep(capsys, "submit", *grid, "--set", "checkpoint_every=1000")
    wait_until(lambda: is_stage_done(runs), 60, "the stage ends")
    killed, cancelled = find(runs, "pixel"), find(runs, "pixel_rf")
    worker(cancelled)
    assert "cancelled 3 jobs of 1 runs" in sweep(capsys, "cancel", "pixel_rf-s0", "--runs", str(runs))
    for start in (1, 2):
        wait_until(lambda start=start: len(killed.record().attempts) == start, 60, f"start {start}")
        os.kill(worker(killed), signal.SIGKILL)
    wait_until(lambda: states(runs)["pixel-s0"] == "failed", 60, "it is given up")
    (row,) = [row for one in all_sweeps(Ledger(runs)) for row in one.rows if row.job.variant == "pixel"]
    assert row.actions["train"].reason == "cut short 2 times"
    assert [(one.seconds, one.job_id) for one in killed.record().attempts] == [(None, killed.record().attempts[0].job_id)] * 2
    assert states(runs)["pixel_rf-s0"] == "resumable"
    assert [one.error for one in cancelled.record().attempts] == [cancelled.record().attempts[0].error]
    assert (cancelled.record().attempts[0].error or "").startswith("Stopped: ")
    assert submitted(sweep(capsys, "submit", *grid, "--set", "checkpoint_every=1000"))["train"] == 1  # the cancelled one alone
    wait_until(lambda: states(runs)["pixel_rf-s0"] == "done", 100, "it ends")
    assert cancelled.record().attempts[1].from_step > 0


def test_five_hundred_rows_stay_below_the_limit_of_arrays(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All jobs are held: what counts is how many there are, in how many calls, and that nothing is submitted twice."""
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE.replace("time: 1m", "time: 1m, sbatch: {hold: true}"))
    limit = int(re.findall(r"MaxArraySize\s*=\s*(\d+)", run("scontrol", "show", "config").stdout)[0])
    grid = [
        "table3a",
        "--scale",
        "smoke",
        "--seeds",
        "0-124",
        "--share-first-stage",
        "--profile",
        str(profile),
        "--runs",
        str(runs),
    ]
    calls = submitted(sweep(capsys, "submit", *grid, "--out", str(tmp_path / "report")))
    chunks = 2 * -(-250 // limit)  # pixels and latents, 250 rows each
    assert calls == {"train": 1 + chunks, "sample": chunks, "evaluate": chunks, "report": 1}
    assert list(states(runs).values()).count("queued") == 502
    assert "nothing to submit" in sweep(capsys, "submit", *grid, "--out", str(tmp_path / "report"))
    said = sweep(capsys, "cancel", "--all", "--runs", str(runs))
    assert "cancelled 1503 jobs of 502 runs" in said
    wait_until(lambda: set(states(runs).values()) == {"missing"}, 60, "all jobs are gone")
