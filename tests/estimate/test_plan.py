"""Hours, the tables' runs, and refusals that say what helps."""

from typing import Any

import pytest

from ablations.registry import GRIDS
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import paper, tiny
from rf_repro.core.errors import UserError
from rf_repro.estimate.fits import check_fits, remedies
from rf_repro.estimate.gpus import get_gpu
from rf_repro.estimate.plan import Cluster, RunEstimate, by_stage, estimate_plan, estimate_stage, find_grid, own_stages
from rf_repro.model.layout import POOL_OF

H200 = get_gpu("h200")
PIXEL_RF = find_grid("pixel_rf").variant("pixel_rf").config(paper())


def test_hours_follow_from_flops_and_utilisation() -> None:
    joint = estimate_stage(PIXEL_RF, PIXEL_RF.stage("joint"), Cluster(H200, 128, mfu=0.2))
    seconds = joint.step_flops / (989e12 * 0.2)
    assert joint.step_seconds == pytest.approx(seconds)
    assert joint.gpu_hours == pytest.approx(128 * 50_000 * seconds / 3600)
    assert joint.tokens_per_second == pytest.approx(128 * 32_768 / seconds)
    # Six FLOPs a token and parameter of attention and of the experts it uses are most of a step.
    parts, tokens = joint.parameters.parts, joint.work.tokens
    dense = sum(6 * tokens(kind) * (parts["attention"].active + parts[f"pool_{pool}"].active) for kind, pool in POOL_OF.items())
    assert 0.8 < dense / joint.step_flops < 1
    twice = estimate_stage(PIXEL_RF, PIXEL_RF.stage("joint"), Cluster(H200, 128, mfu=0.4))
    assert twice.hours == pytest.approx(joint.hours / 2)
    assert twice.memory == joint.memory


def test_every_run_counts_once() -> None:
    cluster = Cluster(H200, 128)
    plan = estimate_plan(paper(), ["all"], cluster)
    rows = {row.key for grid in GRIDS.values() for row in grid.rows}
    names = [run.name for run in plan.runs]
    assert len(names) == len(plan.runs)
    # The paper's DINOv3 row of Table 3e is Table 2's VLM-only: same config, one run.
    assert set(names) == rows - {"vlm_dino"} | {"stage-alignment", "pixel_rf-continued"}
    assert names.count("stage-alignment") == 2  # of DINOv3, and of SigLIP2
    assert plan.gpu_hours == pytest.approx(sum(run.gpu_hours for run in plan.runs))
    assert plan.gpu_hours == pytest.approx(sum(by_stage(plan.runs).values()))
    assert plan.gpu_hours == pytest.approx(128 * plan.hours)
    assert {run.name for run in plan.of_table("table1")} == {"stage-alignment", "pixel_rf", "pixel_rf-continued"}
    assert {run.name for run in plan.of_table("table3a")} == {"stage-alignment", "pixel", "pixel_rf", "vae", "vae_rf"}
    assert {run.name for run in plan.of_table("table3e")} == {"stage-alignment", "vlm_only", "vlm_siglip"}
    assert not plan.left_out
    only = estimate_plan(paper(), ["table3b"], cluster)
    assert only.gpu_hours == pytest.approx(sum(run.gpu_hours for run in plan.of_table("table3b")))


def test_hours_follow_the_schedules() -> None:
    """Ablations end with `joint`; Table 1's run alone goes on, from Table 3a's own, which no table counts twice."""
    plan = estimate_plan(paper(), ["all"], Cluster(H200, 128))
    trained = {run.name: [stage.stage.name for stage in run.stages] for run in plan.runs}
    assert trained.pop("stage-alignment") == ["alignment"]
    assert trained.pop("pixel_rf-continued") == ["continued"]
    assert set(map(tuple, trained.values())) == {("joint",)}
    (shared,) = [run for run in plan.runs if run.name == "pixel_rf"]
    assert shared.tables == ["table1", "table3a", "table3b", "table3c", "table3d", "table2"]
    whole = own_stages(PIXEL_RF, Cluster(H200, 128))  # as one run: the same stages, the same hours
    parts = [stage for run in plan.runs if run.name in ("pixel_rf", "pixel_rf-continued") for stage in run.stages]
    assert [stage.gpu_hours for stage in parts] == pytest.approx([stage.gpu_hours for stage in whole])
    (continued,) = [run for run in plan.runs if run.name == "pixel_rf-continued"]
    assert by_stage(plan.runs)["continued"] == continued.gpu_hours


def test_components_trained_in_suite_are_named_as_left_out() -> None:
    plan = estimate_plan(tiny(), ["table3a", "table3e"], Cluster(H200, 1))
    assert set(plan.left_out) == {"stage-vae", "stage-encoder"}
    assert "stage-vae" not in {run.name for run in plan.runs}


H100, A100, RTX4090 = get_gpu("h100"), get_gpu("a100-80"), get_gpu("4090")
JOINT = "stages.joint."
OFF = {"parallel.sharding": "none", "parallel.activation_checkpointing": False}
CASES: list[tuple[Cluster, dict[str, Any], str]] = [
    (Cluster(H200, 8), {}, "--gpus 32"),
    (Cluster(H200, 64), {"parallel.shard_group": 8}, "--set parallel.shard_group=32"),
    (Cluster(H200, 128), {"parallel.activation_checkpointing": False}, "--set parallel.activation_checkpointing=true"),
    (Cluster(H200, 64), {"parallel.sharding": "none"}, "--set parallel.sharding=fsdp"),
    (Cluster(RTX4090, 128), {}, "--gpu a100-80"),
    (Cluster(A100, 128), {"stages.joint.tokens_per_rank": 131_072},
     "--set stages.joint.tokens_per_rank=65536 --set stages.joint.packs_per_step=256"),
    (Cluster(H200, 8), OFF, "--gpus 32 --set parallel.sharding=fsdp --set parallel.activation_checkpointing=true"),
    (Cluster(RTX4090, 8), {}, "--gpus 64 --gpu a100-80"),
]  # fmt: skip


@pytest.mark.parametrize(("cluster", "changes", "expected"), CASES, ids=[expected for _, _, expected in CASES])
def test_what_does_not_fit_is_refused_and_every_remedy_helps(cluster: Cluster, changes: dict[str, Any], expected: str) -> None:
    config = find_grid("pixel_rf").variant("pixel_rf").config(apply_overrides(paper(), changes)) if changes else PIXEL_RF
    run = RunEstimate("pixel_rf", own_stages(config, cluster))
    worst = max(run.stages, key=lambda stage: stage.missing)
    with pytest.raises(UserError) as refused:
        check_fits([run])
    message = str(refused.value)
    assert f"{worst.missing / 1e9:,.1f} GB more than {cluster.gpu.name}'s" in message
    largest = max(worst.memory.at_peak, key=lambda name: worst.memory.at_peak[name])
    assert largest.replace("_", " ") in message
    found = remedies(run.stages)
    assert expected in map(str, found)
    for remedy in found:
        assert str(remedy) in message
        changed = Cluster(get_gpu(remedy.gpu or cluster.gpu.name), remedy.gpus or cluster.gpus)
        check_fits([RunEstimate("pixel_rf", own_stages(apply_overrides(config, remedy.settings), changed))])


def test_there_may_be_no_remedy() -> None:
    config = apply_overrides(PIXEL_RF, {"model.decoder.ffn_width": 100_000})
    with pytest.raises(UserError, match="no setting or kind of GPU mends it; make the model smaller"):
        check_fits([RunEstimate("pixel_rf", own_stages(config, Cluster(H200, 128)))])


def test_what_fits_is_not_refused() -> None:
    check_fits([RunEstimate("pixel_rf", own_stages(PIXEL_RF, Cluster(H200, 128)))])
