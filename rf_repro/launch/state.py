"""How far every action of a run is, by the files that it left: never from memory. What a queue knows is for `slurm.state`."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.records import Action, Attempt, RunRecord
from rf_repro.core.run_lock import lock_holder
from rf_repro.launch.plan import Job
from rf_repro.worlds import world_of

State = Literal["done", "stale", "running", "queued", "failed", "blocked", "resumable", "missing"]  # queued: as a queue says
OBSTACLES = ("failed", "blocked", "stale")  # what comes after them has to wait for the user


@dataclass(frozen=True)
class ActionState:
    """`reason`: why it waits, failed or is blocked."""

    state: State
    reason: str = ""


def action_state(job: Job, action: Action, record: RunRecord | None, is_next: bool, obstacle: str) -> ActionState:
    """Of one action.

    Args:
        record: the run's; None before it was created.
        is_next: whether all actions before it are done: only then can the files say that it was begun.
        obstacle: what keeps the run from going on, e.g. `stage-vae s0 failed`; empty where nothing does.
    """
    if job.run.has_done(action, job.steps):
        stale = staleness(job, record)
        return ActionState("stale" if stale else "done", stale)
    begun = record if is_next else None
    if begun is not None and lock_holder(job.run.path) is not None:
        return ActionState("running", "outside the queue")
    attempt = last_attempt(begun, action)
    if attempt is not None and begun is not None and begun.status == "failed":
        return ActionState("failed", attempt.error or "")
    if obstacle:
        return ActionState("blocked", obstacle)
    return ActionState("resumable" if attempt is not None else "missing")


def last_attempt(record: RunRecord | None, action: Action) -> Attempt | None:
    """The last attempt, if it was one of this action."""
    if record is None or not record.attempts or record.attempts[-1].action not in (action, "all"):
        return None
    return record.attempts[-1]


def staleness(job: Job, record: RunRecord | None) -> str:
    """Why what a run has done is no longer what this code would do; empty when it is. For shards nobody looks."""
    if record is None or job.config.data.sources or record.data_fingerprint in (None, _fingerprint(job.config)):
        return ""
    return "made from another version of the data; move the run directory away to have it made again"


@cache
def _fingerprint(config: ExperimentConfig) -> str:
    return world_of(config).fingerprint(config)


def hours(record: RunRecord | None) -> float | None:
    """Hours that a run took so far: GPU hours where it ran on GPUs, else hours of its processes; None before it began."""
    if record is None or not record.attempts:
        return None
    return sum((attempt.seconds or 0.0) * attempt.ranks for attempt in record.attempts) / 3600
