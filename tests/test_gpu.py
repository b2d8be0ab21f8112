"""The same code path on CUDA. Skipped where there is no device."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rf_repro.compute.devices import resolve_device
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import smoke
from rf_repro.core.run_dir import RunDir
from rf_repro.experiment.run import run_variant
from rf_repro.launch.machine import look_at
from rf_repro.launch.plan import make_plan

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_auto_is_cuda() -> None:
    assert resolve_device("auto").type == "cuda"


@pytest.mark.parametrize("kind", ["none", "discrete", "continuous", "repa"])
def test_a_run_on_cuda_learns_what_a_run_on_the_cpu_learns(kind: str, tmp_path: Path) -> None:
    config = apply_overrides(smoke(), {"optim.precision": "fp32"})
    config = replace(config, representation=replace(config.representation, kind=kind))
    losses = {}
    for device in ("cuda", "cpu"):
        run = run_variant(config, variant="probe", seed=0, runs=tmp_path / device, device=device)
        assert run.record().status == "done"
        losses[device] = [row["loss/flow"] for row in run.metrics()]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)  # draws are made on the CPU, so only rounding differs


def test_the_machine_is_known_by_its_gpus(tmp_path: Path) -> None:
    machine = look_at(make_plan("smoke", ["table3a"], [0], tmp_path).jobs, "auto", 1)
    assert machine is not None
    assert (machine.kind, machine.device, len(machine.gpus)) == ("cuda", torch.cuda.get_device_name(0), torch.cuda.device_count())


def test_reproduce_goes_all_the_way_on_cuda(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rf_repro.cli", "reproduce", "--scale", "smoke", "--seeds", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "goes on with the CPU" not in done.stderr
    records = [run.record() for run in RunDir.find(tmp_path / "runs")]
    assert len(records) == 6
    assert {attempt.device for record in records for attempt in record.attempts} == {torch.cuda.get_device_name(0)}
