"""The launch path of srun's ranks, under torchrun: the same job, joined through the same environment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rf_repro.core.run_dir import RunDir
from tests.train.test_trainer import assert_same_run

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.dist, pytest.mark.slow]


def torchrun(runs: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rf_repro.cli"]
    arguments = ["train", "--scale", "smoke", "--variant", "pixel_rf", "--device", "cpu", "--runs", str(runs), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


def test_two_ranks_train_one_run_and_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    undisturbed = torchrun(tmp_path / "once")
    _, said = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, said
    run, stage = sorted(RunDir.find(tmp_path / "once"), key=lambda one: one.path.parent.name)
    assert run.record().status == stage.record().status == "done"
    assert [(attempt.ranks, attempt.error) for attempt in run.record().attempts + stage.record().attempts] == [(2, None)] * 2

    with torchrun(tmp_path / "twice") as stopped:
        other = RunDir(tmp_path / "twice" / run.path.relative_to(tmp_path / "once"))
        deadline = time.monotonic() + 200
        while not (other.metrics_path.exists() and len(other.metrics()) >= 1):
            assert time.monotonic() < deadline
            assert stopped.poll() is None
            time.sleep(0.02)
        stopped.send_signal(signal.SIGTERM)  # torchrun passes it to its ranks
        stopped.wait(timeout=60)
    assert (other.record().attempts[0].error or "").startswith("Stopped: ")
    again = torchrun(tmp_path / "twice")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert [attempt.from_step > 0 for attempt in other.record().attempts] == [False, True]
    assert_same_run(run, other, metrics=False)
