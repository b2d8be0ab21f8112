"""A plan is what the files say: the same question asked twice gets the same answer."""

from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.files import append_jsonl, write_json
from rf_repro.core.records import ACTIONS, Attempt
from rf_repro.core.run_lock import run_lock
from rf_repro.launch.plan import Plan, make_plan
from rf_repro.launch.progress import Progress, clock, read_progress
from tests.launch.workers import longer_smoke, smoke_plan, started_from


def names(plan: Plan) -> list[str]:
    return [job.name for job in plan.jobs]


def test_the_shared_stage_comes_first_once_and_then_seed_by_seed(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    assert names(plan) == ["stage-pretrain s0", "pixel s0", "pixel_rf s0", "pixel s1", "pixel_rf s1"]
    stage, *variants = plan.jobs
    assert stage.after == ()
    assert all(job.after == (stage.run.path,) and job.stage_seed == 0 for job in variants)
    assert stage.run.path.parent == tmp_path / "smoke" / "stage-pretrain"
    assert (stage.steps, variants[0].steps) == (20, 30)
    assert not any(tmp_path.iterdir())  # planning writes nothing


def test_each_seed_has_its_own_first_stage_and_vae(tmp_path: Path) -> None:
    plan = make_plan("smoke", ["table3a"], [0, 1], tmp_path)
    stages = {job.name: job.run.path for job in plan.jobs if job.prerequisite}
    assert list(stages) == names(plan)[:4] == ["stage-pretrain s0", "stage-vae s0", "stage-pretrain s1", "stage-vae s1"]
    for job in plan.jobs[4:]:
        wanted = ["stage-pretrain", "stage-vae"] if job.variant.startswith("vae") else ["stage-pretrain"]
        assert job.after == tuple(stages[f"{name} s{job.seed}"] for name in wanted)
        assert job.stage_seed == job.seed


def test_a_run_that_tables_share_is_planned_once(tmp_path: Path) -> None:
    twice = make_plan("smoke", ["table3a", "table3a"], [0, 1], tmp_path)
    assert names(twice) == names(make_plan("smoke", ["table3a"], [0, 1], tmp_path))
    everything = [job.run.path for job in make_plan("smoke", ["all"], [0, 1], tmp_path).jobs]
    assert len(everything) == len(set(everything)) == 2 * (6 + 13)  # two encoders, three first stages, one VAE; 13 rows
    assert set(everything) >= {job.run.path for job in twice.jobs}


PHOTOS = {"data.sources": [{"name": "photos", "path": "/photos"}]}


def test_a_row_that_another_goes_on_from_is_planned_once_and_before_it(tmp_path: Path) -> None:
    """Table 1 at `base`: alone it needs Table 3a's run for its training, beside Table 3a it is that row."""
    alone = make_plan("base", ["table1"], [0], tmp_path, PHOTOS)
    assert [(job.name, job.kind) for job in alone.jobs] == [
        ("stage-alignment s0", "stage"), ("pixel_rf s0", "own stage"), ("pixel_rf-continued s0", "variant"),
    ]  # fmt: skip
    for tables in (["table1", "table3a"], ["table3a", "table1"]):
        both = make_plan("base", tables, [0, 1], tmp_path, PHOTOS)
        seen = list(dict.fromkeys(job.run.path for job in both.jobs))
        assert len(seen) == len(both.jobs) == 2 * 6
        assert all(seen.index(path) < seen.index(job.run.path) for job in both.jobs for path in job.after)
        kinds = {job.slug: job.kind for job in both.jobs}
        assert kinds["pixel_rf-s0"] == kinds["pixel_rf-continued-s1"] == "variant"
        assert {job.run.path for job in alone.jobs} <= set(seen)
    (last,) = [job for job in both.jobs if job.slug == "pixel_rf-continued-s1"]
    assert [path.parent.name for path in last.after] == ["stage-alignment", "pixel_rf"]
    assert last.after[-1].name.endswith("-s1")


def test_of_an_own_stage_the_training_counts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer_smoke(monkeypatch)
    _, own, _ = make_plan("smoke", ["table1"], [0], tmp_path).jobs
    _, row = make_plan("smoke", ["table3a"], [0], tmp_path, only=["pixel_rf"]).jobs
    assert own.run.path == row.run.path
    assert (own.kind, own.actions, row.kind, row.actions) == ("own stage", ("train",), "variant", ACTIONS)
    own.create(tmp_path)
    attempt = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1)
    own.run.write_record(replace(own.run.record(), status="planned", steps=own.steps, attempts=[attempt]))
    assert (own.state, row.state) == ("done", "resumable")
    with run_lock(own.run.path):  # by who draws its images
        assert (own.state, row.state) == ("done", "running")


def test_the_tables_own_seeds_are_the_default(tmp_path: Path) -> None:
    assert {job.seed for job in make_plan("smoke", ["table3a"], None, tmp_path).jobs} == {0}


def test_one_variant(tmp_path: Path) -> None:
    assert names(make_plan("smoke", ["table3a"], [3], tmp_path, only=["pixel_rf"])) == ["stage-pretrain s3", "pixel_rf s3"]


def test_overrides_reach_every_run(tmp_path: Path) -> None:
    plan = make_plan("smoke", ["table3a"], [0], tmp_path, {"data.scenes.num_train": 100})
    assert {job.config.data.scenes.num_train for job in plan.jobs} == {100}
    assert not {job.run.path for job in plan.jobs} & {job.run.path for job in smoke_plan(tmp_path).jobs}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "huge"}, "scale 'huge': unknown"),
        ({"scale": "paper"}, "data.sources=\\(\\): name data to train on"),
        ({"tables": ["table9"]}, "table 'table9': unknown"),
        ({"only": ["vae_rf2"]}, "variant 'vae_rf2': not in table3a"),
        ({"overrides": {"model.depth": 3}}, "model.depth: unknown field"),
        ({"overrides": {"representation.kind": "discrete"}}, "already has this value"),  # pixel_rf would no longer differ
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(**{"scale": "smoke", "tables": ["table3a"], "seeds": [0], "runs": tmp_path, **arguments})  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_states_come_from_files_and_locks(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    job = plan.jobs[1]
    assert job.state == "missing"
    plan.create()
    assert job.state == "missing"  # a folder in which nobody has worked
    record = replace(job.run.record(), status="running", attempts=[Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1)])
    job.run.write_record(record)
    assert job.state == "resumable"  # its process was killed
    with run_lock(job.run.path):
        assert job.state == "running"
    job.run.write_record(replace(record, status="failed"))
    assert job.state == "failed"
    job.run.write_record(replace(record, status="done"))
    assert job.state == "done"


def test_a_run_from_another_first_stage_is_not_taken_for_this_one(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    plan.create()
    job = plan.jobs[3]
    assert job.name == "pixel s1"
    job.run.write_record(replace(job.run.record(), status="done", started_from=started_from(job)))
    assert names(smoke_plan(tmp_path)) == names(plan)
    with pytest.raises(UserError, match=r"started from stage-pretrain/\w+-s0, not stage-pretrain/\w+-s1; .*--share-first-stage"):
        make_plan("smoke", ["table3a"], [0, 1], tmp_path)


def test_progress_is_the_newer_of_the_two_files(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    plan.create()
    job = plan.jobs[1]
    run = job.run
    assert read_progress(job) == Progress("start", 0, 30)
    for step in range(1, 2001):
        append_jsonl(run.metrics_path, {"step": step, "loss": 1 / step})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 2001, "lo')  # being written
    assert read_progress(job) == Progress("train", 2000, 30, 1 / 2000, 2000)
    write_json(run.path / "progress.json", {"phase": "sample", "done": 3, "total": 24})
    assert read_progress(job) == Progress("sample", 3, 24, step=2000)


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.9, "0:00"), (75.2, "1:15"), (3700, "1:01:40")])
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text
