"""How far a run's actions are, by its files alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.core.records import Attempt
from rf_repro.core.run_lock import run_lock
from rf_repro.data.scenes.world import world_fingerprint
from rf_repro.launch.plan import Job, make_plan
from rf_repro.launch.state import ActionState, action_state, hours, last_attempt, staleness

ATTEMPT = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, seconds=1800.0, action="train", ranks=2)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run that nobody has worked on."""
    *_, job = make_plan("smoke", ["table3a"], [0], tmp_path, only=["pixel"]).jobs
    job.create(tmp_path)
    return job


def test_states_follow_the_files(job: Job) -> None:
    record = job.run.record()

    def state(is_next: bool = True, obstacle: str = "") -> ActionState:
        return action_state(job, "train", job.run.record(), is_next, obstacle)

    assert state() == ActionState("missing")
    assert state(obstacle="stage-pretrain s0 failed") == ActionState("blocked", "stage-pretrain s0 failed")
    job.run.write_record(replace(record, status="running", attempts=[ATTEMPT]))
    assert state() == ActionState("resumable")
    with run_lock(job.run.path):
        assert state() == ActionState("running", "outside the queue")
        assert state(is_next=False) == ActionState("missing")
    job.run.write_record(replace(record, status="failed", attempts=[replace(ATTEMPT, error="loss is NaN")]))
    assert state(obstacle="something") == ActionState("failed", "loss is NaN")
    assert action_state(job, "sample", job.run.record(), False, "train failed") == ActionState("blocked", "train failed")
    job.run.write_record(replace(record, steps=job.steps, attempts=[ATTEMPT]))
    assert state(obstacle="something") == ActionState("done")
    assert action_state(job, "sample", job.run.record(), True, "") == ActionState("missing")


def test_what_was_made_from_other_data_is_stale(job: Job) -> None:
    record = replace(job.run.record(), steps=job.steps)
    ours = world_fingerprint(job.config.data.scenes)
    assert staleness(job, None) == staleness(job, record) == staleness(job, replace(record, data_fingerprint=ours)) == ""
    stale = replace(record, data_fingerprint="0" * 64)
    job.run.write_record(stale)
    assert action_state(job, "train", stale, True, "") == ActionState("stale", staleness(job, stale))
    assert staleness(job, stale).startswith("made from another version of the data")


def test_runs_on_shards_are_not_held_to_the_scenes(tmp_path: Path) -> None:
    sources = [{"name": "photos", "path": "/photos"}]
    *_, job = make_plan("base", ["table3a"], [0], tmp_path, {"data.sources": sources}, only=["pixel"]).jobs
    job.create(tmp_path)
    record = replace(job.run.record(), status="done", steps=job.steps, data_fingerprint="0" * 64)
    job.run.write_record(record)
    assert action_state(job, "train", record, True, "") == ActionState("done")


def test_attempts(job: Job) -> None:
    record = replace(job.run.record(), attempts=[ATTEMPT, replace(ATTEMPT, action="sample", ranks=1)])
    assert last_attempt(record, "sample") is record.attempts[1]
    assert last_attempt(record, "train") is last_attempt(None, "train") is None
    job.run.write_record(record)
    assert hours(job) == 1.5
    job.run.write_record(replace(record, attempts=[]))
    assert hours(job) is None
