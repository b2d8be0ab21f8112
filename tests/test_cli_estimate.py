"""`rf-repro estimate` as a command: what it prints, what it refuses."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ablations.registry import GRIDS
from ablations.variants import PIXEL_RF
from rf_repro.cli import main
from rf_repro.config.scales import paper
from rf_repro.estimate import parameters
from rf_repro.estimate.gpus import GPUS
from rf_repro.estimate.inference import estimate_action
from rf_repro.estimate.parameters import count_by_pool
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
        ([], "--gpus: is missing; say how many GPUs train one run together"),
        (["--inference", "--gpu", "4090"], "GB more than 4090's 24; it fits with: --gpu a100-80, h100, h200, b200"),
        (
            ["--inference", "--gpu", "h100", "--set", "model.decoder.num_layers=60"],
            "it fits with: --gpu h200, b200; or fewer than 194 at once",
        ),
        (["--inference", "--set", "model.decoder.num_layers=300"], "no kind of GPU mends it; make the model smaller"),
        (["--inference", "--gpus", "8"], "--inference: is of one GPU"),
        (["--inference", "--gpu", "abacus"], "--gpu 'abacus': unknown"),
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
    assert data["gpu"] == {"name": "h200", "memory": 141 * 10**9, "flops": 989 * 10**12, "bandwidth": 4800 * 10**9}
    for stage in data["stages"]:
        phases, states = stage["memory"]["phases"], stage["memory"]["states"]
        sizes = [size for part in (states, *phases.values()) for size in part.values()]
        assert all(isinstance(size, int) for size in sizes)
        peak = sum(states.values()) + max(sum(phase.values()) for phase in phases.values())
        assert stage["peak_bytes"] == peak
        assert all(isinstance(cost["training"], int) for cost in stage["flops_per_rank"].values())
    assert data["gpu_hours"] == pytest.approx(data["tables"]["table3a"]["gpu_hours"])
    assert data["parameters"]["pools"]["pixel"] == data["parameters"]["parts"]["pool_pixel"]
    assert data["parallel"] == {"sharding": "fsdp", "shard_group": 64, "compile": "auto", "activation_checkpointing": True}
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


# Inference

RF = PIXEL_RF.config(paper())


def test_what_inference_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--inference", "--json", "--scale", "paper", "--gpu", "h200"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parameters"] == {pool or "shared": count for pool, count in count_by_pool(RF).items()}
    assert [(row["name"], row["size"], row["phases"]) for row in data["actions"]] == [
        ("answering", [1024, 1024], False), ("sampling", [256, 256], True), ("sampling", [1024, 1024], True),
    ]  # fmt: skip
    assert [(row["name"], row["size"][0], row["count"]) for row in data["prompt_sets"]] == [
        ("GenEval", 256, 2212), ("GenEval", 1024, 2212), ("DPG-Bench", 256, 4260), ("DPG-Bench", 1024, 4260),
    ]  # fmt: skip
    for row in [*data["actions"], *data["prompt_sets"]]:
        assert row["fits"]
        assert isinstance(row["device_bytes"], int)
        assert isinstance(row["host_bytes"], int)
    expected = estimate_action(RF, "sample", GPUS["h200"], size=(1024, 1024), images=2212, text_tokens=16)
    assert data["prompt_sets"][1]["hours"] == expected.hours
    assert main(["estimate", "--inference", "--scale", "paper", "--gpu", "h200"]) == 0
    shown = capsys.readouterr().out
    assert "in phases" in shown
    assert f"{expected.hours:.2g}" in shown
    assert main(["estimate", "--inference", "--variant", "vlm_only"]) == 0
    assert "sampling" not in capsys.readouterr().out.split("Assumed")[0]


@pytest.mark.parametrize("scale", ["smoke", "tiny", "small", "base"])
def test_every_scale_can_be_sampled_by_the_estimate(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--inference", "--scale", scale, "--gpu", "h100"]) == 0
    assert "whole" in capsys.readouterr().out


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "base.md").read_text(encoding="utf-8")
    command = "rf-repro estimate --inference --scale paper --gpu h200"
    shown = page.partition(f"$ {command}\n")[2].partition("\n```")[0]
    assert main(shlex.split(command)[1:]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
    assert shown.splitlines() == printed
