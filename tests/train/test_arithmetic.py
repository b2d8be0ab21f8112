"""bf16 is a wish: what is computed in follows from the machine, and both are one run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reports.collect import machine
from rf_repro.compute import arithmetic as module
from rf_repro.compute.arithmetic import arithmetic, has_bf16
from rf_repro.compute.ranks import Ranks
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.scales import smoke
from rf_repro.core.errors import Stopped
from rf_repro.core.run_dir import RunDir
from rf_repro.experiment.run import run_prerequisite
from rf_repro.train.loop import never

CPU = torch.device("cpu")
ASK = "import torch; from rf_repro.compute.arithmetic import arithmetic; print(arithmetic({!r}, torch.device('cpu')))"


def asked(wish: str = "bf16", **environment: str) -> str:
    """The answer of a new process, as on another machine."""
    clean = {k: v for k, v in os.environ.items() if "MAX_CPU_ISA" not in k and k != "ATEN_CPU_CAPABILITY"}
    command = [sys.executable, "-c", ASK.format(wish)]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},  # oneDNN takes bf16 there, at a fifth of float32's speed
        {"DNNL_MAX_CPU_ISA": "avx512_core_vnni"},
    ],
    ids=str,
)  # fmt: skip
def test_a_cpu_without_bf16_computes_in_float32(environment: dict[str, str]) -> None:
    assert asked("bf16", **environment) == "fp32"


def test_a_cpu_with_bf16_computes_in_it_and_float32_is_never_changed() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert asked("bf16") == ("bf16" if "avx512_bf16" in flags or " bf16 " in flags else "fp32")
    assert asked("fp32") == "fp32"


def test_mps_computes_in_float32() -> None:
    assert not has_bf16(torch.device("mps"))


def test_one_rank_without_bf16_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    assert arithmetic("bf16", CPU) == "bf16"

    class OneLacks(Ranks):
        def any(self, flag: bool) -> bool:
            return True

    assert arithmetic("bf16", CPU, OneLacks(0, 2)) == "fp32"


@pytest.mark.slow
def test_what_was_used_is_recorded_and_a_run_goes_on_in_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = apply_overrides(smoke(), {"stages.pretrain.steps": 6, "checkpoint_every": 3})
    [shared] = [one for one in shared_runs(config) if one.name == "stage-pretrain"]

    def train(native: bool, stop: Callable[[], bool]) -> RunDir:
        monkeypatch.setattr(module, "has_bf16", lambda device: native)
        return run_prerequisite(shared, seed=0, runs=tmp_path, device="cpu", stop=stop)

    with pytest.raises(Stopped):
        train(True, lambda: bool(list(tmp_path.rglob("step-*"))))
    record = train(False, never).record()
    assert [attempt.arithmetic for attempt in record.attempts] == ["bf16", "fp32"]
    assert [attempt.from_step for attempt in record.attempts] == [0, 4]
    assert (record.status, record.steps) == ("done", 6)
    assert machine(record.attempts[1]) == "cpu, 1 thread, fp32"
