"""Compiled layers: the same step up to rounding; when they are; what happens where they cannot be."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rf_repro.compute import compiled
from rf_repro.compute.compiled import FEW_STEPS, can_compile, compilable, compile_layers, compiles
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import smoke
from rf_repro.experiment.run import make_trainer
from rf_repro.train.trainer import Trainer

CPU = torch.device("cpu")


class Doubling(nn.Module):
    @compilable
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_layers_run_compiled_where_they_are_told_and_while_they_train(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Callable[..., Any]] = []

    def compile_(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        calls.append(function)
        return lambda *arguments: -function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_)
    model, one = nn.ModuleList([nn.Sequential(Doubling()), Doubling(), nn.Linear(1, 1)]), torch.ones(())
    assert float(model[1](one)) == 2
    compile_layers(model)
    assert [float(model[index](one)) for index in (0, 1)] == [-2, -2]
    assert len(calls) == 1  # one compilation for all
    assert [float(model.eval()[index](one)) for index in (0, 1)] == [2, 2]


def test_long_stages_on_a_cpu_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "can_compile", lambda device_type: True)
    cuda = torch.device("cuda")
    lengths = (30, FEW_STEPS + 1)
    found = {
        wish: [compiles(wish, steps, device) for steps in lengths for device in (CPU, cuda)] for wish in ("auto", "on", "off")
    }
    assert found == {"auto": [False, False, True, False], "on": [True] * 4, "off": [False] * 4}
    monkeypatch.setattr(compiled, "can_compile", lambda device_type: False)
    assert not compiles("on", FEW_STEPS + 1, CPU)


@pytest.mark.slow
def test_without_a_compiler_of_cpp_a_line_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    code = "from rf_repro.compute.compiled import *; print([can_compile('cpu') for _ in range(2)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, False]\n"
    lines = [line for line in done.stderr.splitlines() if "not compiled" in line]
    assert len(lines) == 1
    assert lines[0].startswith("layers are not compiled, and training is slower for it (")


def steps(compile_: str) -> tuple[Trainer, list[dict[str, float]]]:
    overrides: dict[str, Any] = {
        "representation.kind": "discrete", "optim.precision": "fp32", "parallel.compile": compile_,
        "model.decoder.num_layers": 1, "stages.joint.mixture.questions": 0, "stages.joint.mixture.text": 0,
    }  # fmt: skip
    trainer = make_trainer(apply_overrides(smoke(), overrides), 0, CPU, None, None, None)
    trainer.begin()
    return trainer, [trainer.train_step() for _ in range(3)]


@pytest.mark.slow
def test_compiled_steps_equal_uncompiled_ones_up_to_rounding() -> None:
    """Losses, gradients and what Muon makes of them, in float32, with all kinds of tokens, adaLN and the distance bias."""
    if not can_compile("cpu"):
        pytest.skip("needs a C++ compiler that torch.compile can use")
    trainers, logs = zip(*(steps(wish) for wish in ("on", "off")), strict=True)
    assert [trainer.is_compiled for trainer in trainers] == [True, False]
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    models = [trainer.model.state_dict() for trainer in trainers]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=0, atol=2e-4, msg=name)
    copy = trainers[0].inference_model()
    assert not any(module.training for module in copy.modules())  # and so uncompiled
