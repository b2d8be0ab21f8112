"""Hours, the tables' runs, refusals that say what helps, and the command itself."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from ablations.registry import GRIDS
from rf_repro.cli import main
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import paper, tiny
from rf_repro.core.errors import UserError
from rf_repro.estimate.gpus import GPUS, get_gpu
from rf_repro.estimate.plan import Cluster, RunEstimate, check_fits, estimate_plan, estimate_stage, find_variant, own_stages

H200 = get_gpu("h200")
PIXEL_RF = find_variant("pixel_rf").config(paper())


def test_hours_follow_from_flops_and_utilisation() -> None:
    joint = estimate_stage(PIXEL_RF, PIXEL_RF.stage("joint"), Cluster(H200, 128, 128, mfu=0.2))
    seconds = joint.step_flops / (989e12 * 0.2)
    assert joint.step_seconds == pytest.approx(seconds)
    assert joint.gpu_hours == pytest.approx(128 * 50_000 * seconds / 3600)
    assert joint.tokens_per_second == pytest.approx(128 * 32_768 / seconds)
    # Six FLOPs a parameter and token, of those a token uses, is most of a step and never more than it.
    per_token = joint.parameters.active
    dense = sum(6 * joint.work.tokens(kind) * active for kind, active in per_token.items() if kind != "image")
    assert 0.7 < dense / joint.step_flops < 1
    twice = estimate_stage(PIXEL_RF, PIXEL_RF.stage("joint"), Cluster(H200, 128, 128, mfu=0.4))
    assert twice.hours == pytest.approx(joint.hours / 2)
    assert twice.memory == joint.memory


def test_every_run_counts_once() -> None:
    cluster = Cluster(H200, 128, 128)
    plan = estimate_plan(paper(), ["all"], cluster)
    rows = {row.key for grid in GRIDS.values() for row in grid.rows}
    names = [run.name for run in plan.runs]
    assert len(names) == len(plan.runs)
    # The paper's DINOv3 row of Table 3e is Table 2's VLM-only: same config, one run.
    assert set(names) == rows - {"vlm_dino"} | {"stage-alignment"}
    assert names.count("stage-alignment") == 2  # of DINOv3, and of SigLIP2
    assert plan.gpu_hours == pytest.approx(sum(run.gpu_hours for run in plan.runs))
    assert plan.gpu_hours == pytest.approx(sum(plan.by_stage.values()))
    assert plan.gpu_hours == pytest.approx(128 * plan.hours)
    assert {run.name for run in plan.of_table("table3a")} == {"stage-alignment", "pixel", "pixel_rf", "vae", "vae_rf"}
    assert {run.name for run in plan.of_table("table3e")} == {"stage-alignment", "vlm_only", "vlm_siglip"}
    assert not plan.left_out
    only = estimate_plan(paper(), ["table3b"], cluster)
    assert only.gpu_hours == pytest.approx(sum(run.gpu_hours for run in plan.of_table("table3b")))


def test_components_trained_in_suite_are_named_as_left_out() -> None:
    plan = estimate_plan(tiny(), ["table3a", "table3e"], Cluster(H200, 1, 1))
    assert set(plan.left_out) == {"stage-vae", "stage-encoder"}
    assert "stage-vae" not in {run.name for run in plan.runs}


CASES: list[tuple[Cluster, dict[str, Any], str]] = [
    (Cluster(H200, 8, 8), {}, "--gpus 32"),
    (Cluster(H200, 64, 8), {}, "--shard-group 32"),
    (Cluster(get_gpu("h100"), 128, 128, checkpointing=False), {}, "activation checkpointing"),
    (Cluster(get_gpu("4090"), 128, 128), {}, "--gpu a100-80"),
    (Cluster(get_gpu("a100-80"), 128, 128), {"stages.joint.tokens_per_rank": 131_072, "stages.joint.mixture.generation": 1},
     "--set stages.joint.tokens_per_rank=65536"),
]  # fmt: skip


@pytest.mark.parametrize(("cluster", "changes", "remedy"), CASES, ids=[remedy for _, _, remedy in CASES])
def test_what_does_not_fit_is_refused_and_the_remedy_helps(cluster: Cluster, changes: dict[str, Any], remedy: str) -> None:
    config = find_variant("pixel_rf").config(apply_overrides(paper(), changes)) if changes else PIXEL_RF
    joint = estimate_stage(config, config.stage("joint"), cluster)
    with pytest.raises(UserError) as refused:
        check_fits(RunEstimate("pixel_rf", (joint,)))
    message = str(refused.value)
    assert f"{joint.missing / 1e9:,.1f} GB more than {cluster.gpu.name}'s" in message
    largest = max(joint.memory.at_peak, key=lambda name: joint.memory.at_peak[name])
    assert largest.replace("_", " ") in message
    assert remedy in message
    stage, changed = config.stage("joint"), cluster
    if "--gpus" in remedy:
        changed = replace(cluster, gpus=32, shard_group=32)
    elif "--shard-group" in remedy:
        changed = replace(cluster, shard_group=32)
    elif "checkpointing" in remedy:
        changed = replace(cluster, checkpointing=True)
    elif "--gpu " in remedy:
        changed = replace(cluster, gpu=GPUS[remedy.split()[-1]])
    else:
        stage = replace(stage, tokens_per_rank=int(remedy.split("=")[-1]))
    check_fits(RunEstimate("pixel_rf", (estimate_stage(config, stage, changed),)))


def test_what_fits_is_not_refused() -> None:
    check_fits(RunEstimate("pixel_rf", own_stages(PIXEL_RF, Cluster(H200, 128, 128))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "abacus"], "--gpu 'abacus': unknown; choose one of a100-40"),
        (["--gpus", "0"], "--gpus 0: must be >= 1"),
        (["--gpus", "12", "--shard-group", "8"], "--shard-group 8: must be a divisor of --gpus 12"),
        (["--shard-group", "0"], "--shard-group 0: must be a divisor"),
        (["--mfu", "1.5"], "--mfu 1.5: must be in (0, 1]"),
        (["--tables", "table9"], "table 'table9': unknown"),
        (["--variant", "nothing"], "--variant 'nothing': unknown; choose one of"),
        (["--gpus", "8", "--gpu", "h100"], "GB more than h100's 80"),
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
    assert data["gpu_hours"] == pytest.approx(data["tables"]["table3a"])
    assert data["stages"][0]["trained_parameters"] == data["parameters"]["total"]


def test_the_whole_plan_is_printed_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    assert main(["estimate", "--scale", "paper", "--gpus", "128", "--gpu", "h200", "--tables", "all"]) == 0
    assert time.process_time() - start < 30
    shown = capsys.readouterr().out
    for grid in GRIDS.values():
        assert f"\n{grid.name}: " in shown
    assert "89,474.2" in shown  # million parameters of three pools of Qwen3-30B-A3B's experts
    assert "Assumed: " in shown


def test_help_loads_no_torch() -> None:
    code = "import sys\nfrom rf_repro.cli import main\ntry: main(['estimate', '--help'])\nexcept SystemExit: pass\n" \
           "print('torch' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "example: rf-repro estimate" in done.stdout
