"""The launch path of srun's ranks, under torchrun: the same job, joined through the same environment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.compute.ranks import Ranks
from rf_repro.core.run_dir import RunDir
from rf_repro.launch.jobs import RunJob
from rf_repro.launch.plan import make_plan
from tests.train.processes import run_ranks
from tests.train.test_trainer import assert_same_run
from tests.waiting import SECONDS, wait_until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.dist, pytest.mark.slow]
CHANGES = {"evals.images_per_task": 1, "evals.every": 0}
SMALLER = [word for path, value in CHANGES.items() for word in ("--set", f"{path}={value}")]


def torchrun(runs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rf_repro.cli"]
    arguments = ["train", "--scale", "smoke", "--variant", "pixel_rf", "--device", "cpu", "--runs", str(runs), *SMALLER]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


def undisturbed(ranks: Ranks, runs: Path) -> None:
    """The same runs, by ranks that nobody stopped."""
    for job in make_plan("smoke", ["table3a"], [0], runs, CHANGES, only=["pixel_rf"]).jobs:
        if ranks.is_first:
            job.create(runs)
        ranks.barrier()
        RunJob(job, runs, "cpu", 1).work_with(ranks, lambda: False)


def test_two_ranks_train_one_run_and_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    run_ranks(undisturbed, 2, tmp_path / "groups", tmp_path / "once")
    run, stage = sorted(RunDir.find(tmp_path / "once"), key=lambda one: one.path.parent.name)

    with torchrun(tmp_path / "twice") as stopped:
        other, other_stage = (RunDir(tmp_path / "twice" / one.path.relative_to(tmp_path / "once")) for one in (run, stage))
        wait_until(lambda: other.metrics_path.exists() and other.metrics(), stopped)
        stopped.send_signal(signal.SIGTERM)  # torchrun passes it to its ranks
        stopped.communicate(timeout=SECONDS)
    assert (other.record().attempts[0].error or "").startswith("Stopped: ")
    again = torchrun(tmp_path / "twice")
    _, said = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, said
    assert other.record().status == other_stage.record().status == "done"
    assert [(attempt.ranks, attempt.error) for attempt in other_stage.record().attempts] == [(2, None)]
    assert [attempt.ranks for attempt in other.record().attempts] == [2, 2]
    assert [attempt.from_step > 0 for attempt in other.record().attempts] == [False, True]
    assert other.record().attempts[1].error is None
    assert_same_run(stage, other_stage)
    assert_same_run(run, other, metrics=False)
