"""What a grid asks of GPUs by estimate: the numbers of `rf-repro estimate`, action by action; what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.core.errors import UserError
from rf_repro.estimate.gpus import get_gpu
from rf_repro.estimate.inference import estimate_action
from rf_repro.estimate.plan import Cluster, estimate_plan
from rf_repro.evaluations.plan import load_plan
from rf_repro.launch.plan import Plan, make_plan
from slurm.cost import SECONDS_AN_IMAGE, cost_of, cost_rows, sized
from slurm.profile import Profile, load_profile
from slurm.resources import parse_memory

PHOTOS = {"data.sources": [{"name": "photos", "path": "/photos"}]}
TABLES = ["table1", "table2", "table3a", "table3e"]
PROFILE = "resources: {nodes: 1, gpus_per_node: 8, time: 24h}\ngpu: h100\nshares: {sample: 8}\n"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    path = tmp_path_factory.mktemp("profile") / "cluster.yaml"
    path.write_text(PROFILE)
    return load_profile(str(path))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan("base", TABLES, [0, 1], tmp_path_factory.mktemp("runs"), PHOTOS, evaluations=load_plan(None))


def test_training_costs_what_estimate_says(plan: Plan, profile: Profile) -> None:
    """Every run once: both seeds of each row and of each stage."""
    rows = [row for row in cost_rows(plan.jobs, profile) if row.action == "train"]
    base = apply_overrides(get_scale("base"), PHOTOS)
    expected = estimate_plan(base, TABLES, Cluster(get_gpu("h100"), 8))
    hours = sum(2 * run.gpu_hours for run in expected.runs)
    assert sum(row.gpu_hours for row in rows) == pytest.approx(hours, rel=1e-9)
    assert all((row.cost.jobs, row.cost.gpus) == (1, 8) for row in rows)


def test_images_and_questions_cost_what_estimate_says(plan: Plan, profile: Profile) -> None:
    rows = {(row.variant, row.action): row for row in cost_rows(plan.jobs, profile)}
    job = next(job for job in plan.jobs if job.variant == "pixel_rf-continued")
    row = rows["pixel_rf-continued", "sample-official-1024"]
    expected = estimate_action(job.config, "sample", get_gpu("h100"), size=(1024, 1024), images=553 * 4)
    assert (row.runs, row.cost.jobs, row.cost.gpus) == (2, 8, 1)
    assert row.cost.gpu_hours == expected.hours
    assert row.cost.device_bytes == expected.device_bytes
    asked = estimate_action(job.config, "answer", get_gpu("h100"), questions=900)
    assert rows["pixel_rf", "mmmu"].cost.gpu_hours == pytest.approx(asked.hours)
    assert rows["pixel_rf-continued", "dpg-1024"].cost.gpu_hours == pytest.approx(1065 * 4 * SECONDS_AN_IMAGE["dpg"] / 3600)


def test_jobs_ask_for_the_memory_that_they_need(plan: Plan, profile: Profile) -> None:
    job = next(job for job in plan.jobs if job.variant == "pixel_rf")
    need = sized(profile, job, "sample-official-256").memory
    assert need is not None
    cost = cost_of(job, "sample-official-256", profile)
    assert 0 <= need * 2**20 - cost.host_bytes - 8 * 2**30 < 2**20
    assert sized(profile, job, "geneval-official-256").memory is None  # others' models: nothing is known
    own = {kind: replace(one, memory=parse_memory("2GB")) for kind, one in profile.actions.items()}
    with pytest.raises(UserError, match=r"actions\.sample\.memory=2048M: sample-official-256 of pixel_rf s0 needs \d+M"):
        sized(replace(profile, actions=own), job, "sample-official-256")
    whole = {kind: replace(one, memory=0) for kind, one in profile.actions.items()}
    assert sized(replace(profile, actions=whole), job, "sample-official-256").memory == 0  # all of the node's


def test_what_no_gpu_holds_is_refused_before_it_is_queued(profile: Profile, tmp_path: Path) -> None:
    changes = PHOTOS | {"model.decoder.num_layers": 96}
    job = make_plan("paper", ["table2"], [0], tmp_path, changes, only=["vlm_only"], evaluations=load_plan(None)).jobs[-1]
    with pytest.raises(UserError, match=r"vlm_only s0: mmmu needs \d+ GB on a GPU, h100 has 80"):
        sized(profile, job, "mmmu")
    assert sized(replace(profile, gpu=None), job, "mmmu") == profile.resources("answer")  # nothing is known
    with pytest.raises(UserError, match="gpu: names none"):
        cost_of(job, "train", replace(profile, gpu=None))
