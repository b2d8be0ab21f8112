"""The same code path on CUDA. Skipped where there is no device."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import smoke
from rf_repro.pipeline import run_variant
from rf_repro.train.devices import resolve_device

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
