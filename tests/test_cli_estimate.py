"""`rf-repro estimate` as a command: what it prints, what it refuses."""

import json
import subprocess
import sys

import pytest

from ablations.registry import GRIDS
from rf_repro.cli import main
from rf_repro.estimate import parameters
from rf_repro.model.rf_model import RFModel


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "128", "--gpu", "abacus"], "--gpu 'abacus': unknown; choose one of a100-40"),
        (["--gpus", "0"], "--gpus 0: must be >= 1"),
        (["--gpus", "64", "--set", "parallel.shard_group=12"], "parallel.shard_group=12: must be a divisor of --gpus 64"),
        (["--gpus", "24"], "packs_per_step=128: must be a multiple of --gpus 24; set stages.joint.packs_per_step=144"),
        (["--gpus", "128", "--mfu", "1.5"], "--mfu 1.5: must be in (0, 1]"),
        (["--gpus", "128", "--tables", "table9"], "table 'table9': unknown"),
        (["--gpus", "128", "--variant", "nothing"], "--variant 'nothing': unknown; choose one of"),
        (["--gpus", "8", "--gpu", "h100", "--tables", "table1"], "GB more than h100's 80"),
        (["--scale", "tiny", "--gpus", "64"], "samples of a kind at most for 64 GPUs"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_json_holds_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--json", "--gpus", "64", "--tables", "table3a"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert isinstance(data["parameters"]["total"], int)
    assert data["parameters"]["total"] == sum(part["total"] for part in data["parameters"]["parts"].values())
    assert data["gpu"] == {"name": "h200", "memory": 141 * 10**9, "flops": 989 * 10**12}
    for stage in data["stages"]:
        phases, states = stage["memory"]["phases"], stage["memory"]["states"]
        sizes = [size for part in (states, *phases.values()) for size in part.values()]
        assert all(isinstance(size, int) for size in sizes)
        peak = sum(states.values()) + max(sum(phase.values()) for phase in phases.values())
        assert stage["peak_bytes"] == peak
        assert all(isinstance(cost["training"], int) for cost in stage["flops_per_rank"].values())
    assert data["gpu_hours"] == pytest.approx(data["tables"]["table3a"]["gpu_hours"])
    assert data["parameters"]["pools"]["pixel"] == data["parameters"]["parts"]["pool_pixel"]
    assert data["parallel"] == {"sharding": "fsdp", "shard_group": 64, "activation_checkpointing": True}
    assert [(stage["name"], stage["passes_per_step"]) for stage in data["stages"]] == [("joint", 2)]
    assert [stage["step_flops"] for stage in data["stages"]] == [
        64 * sum(cost["training"] for cost in stage["flops_per_rank"].values()) for stage in data["stages"]
    ]
    assert data["stages"][0]["trained_parameters"] == data["parameters"]["total"]


def test_the_whole_plan_builds_a_model_a_run_and_none_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that it is printed in seconds."""
    built: list[RFModel] = []
    build = parameters._meta_model
    monkeypatch.setattr(parameters, "_meta_model", lambda config: built.append(build(config)) or built[-1])
    assert main(["estimate", "--scale", "paper", "--gpus", "128", "--gpu", "h200", "--tables", "all"]) == 0
    runs = {row.key for grid in GRIDS.values() for row in grid.rows}
    assert len(built) <= len(runs) + 3  # Table 1's last stage, a shared one, and the run shown in detail
    assert all(tensor.is_meta for model in built for tensor in model.parameters())
    shown = capsys.readouterr().out
    for table in GRIDS:
        assert f"\n{table} " in shown
    assert "89,47" in shown  # million parameters of three pools of Qwen3-30B-A3B's experts
    assert "Assumed: " in shown


def test_help_loads_no_torch() -> None:
    code = "import sys\nfrom rf_repro.cli import main\ntry: main(['estimate', '--help'])\nexcept SystemExit: pass\n" \
           "print('torch' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "example: rf-repro estimate" in done.stdout


@pytest.mark.parametrize(("scale", "gpus", "millions"), [("tiny", 1, (1, 10)), ("small", 1, (80, 200)), ("base", 8, (500, 4000))])
def test_every_scale_has_a_plan(scale: str, gpus: int, millions: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--json", "--scale", scale, "--gpus", str(gpus), "--gpu", "h100"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert millions[0] < data["parameters"]["total"] / 1e6 < millions[1]
    assert set(data["tables"]) == set(GRIDS)
