"""How far every action of a run is, by the files that it left: never from memory. What a queue knows is for `slurm.state`."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.action_dir import ActionDir, Share, all_attempts
from rf_repro.core.errors import UserError
from rf_repro.core.records import Attempt, RunRecord
from rf_repro.core.run_lock import lock_holder
from rf_repro.evaluations.actions import Evaluation, stale_reason
from rf_repro.launch.plan import Job
from rf_repro.worlds import world_of

State = Literal["done", "stale", "running", "queued", "failed", "blocked", "resumable", "missing"]  # queued: as a queue says
OBSTACLES = ("failed", "blocked", "stale")  # what comes after them has to wait for the user


@dataclass(frozen=True)
class ActionState:
    """`reason`: why it waits, failed or is blocked."""

    state: State
    reason: str = ""


def action_state(
    job: Job, action: str, record: RunRecord | None, is_next: bool, obstacle: str, share: Share = (0, 1)
) -> ActionState:
    """Of one action, or of a share of it.

    Args:
        record: the run's; None before it was created.
        is_next: whether all actions before it are done: only then can the files say that it was begun.
        obstacle: what keeps the run from going on, e.g. `stage-vae s0 failed`; empty where nothing does.
        share: (index, count); what is no evaluation is done whole.

    Returns:
        `failed` where a file cannot be read, with the line that names it.
    """
    try:
        return _action_state(job, action, record, is_next, obstacle, share)
    except UserError as error:
        return ActionState("failed", str(error))


def _action_state(job: Job, action: str, record: RunRecord | None, is_next: bool, obstacle: str, share: Share) -> ActionState:
    evaluation = job.evaluation(action)
    if evaluation is not None:
        return _evaluation_state(job, evaluation, is_next, obstacle, share)
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


def _evaluation_state(job: Job, evaluation: Evaluation, is_next: bool, obstacle: str, share: Share) -> ActionState:
    folder = ActionDir.of(job.run, evaluation.name)
    done = folder.record()
    if done is not None and done.digest != evaluation.digest:
        return ActionState("stale", stale_reason(job.run, evaluation))
    if folder.has_done(evaluation.digest):
        return ActionState("done")
    part = folder.share(share)
    if part.holder() is not None:
        return ActionState("running", "outside the queue")
    if done is not None:  # something was lost since
        return ActionState("blocked", obstacle) if obstacle else ActionState("resumable")
    record = part.record()
    own = record if record is not None and record.digest == evaluation.digest else None
    if own is not None and own.done and not all(one.has_done(evaluation.digest) for one in folder.shares(share[1])):
        return ActionState("done")  # this share; where all are, the last one puts them together
    if is_next and own is not None and own.failed:
        return ActionState("failed", own.attempts[-1].error or "")
    if obstacle:
        return ActionState("blocked", obstacle)
    return ActionState("missing" if own is None else "resumable")


def record_of(job: Job) -> RunRecord | None:
    """The run's record; None before it was created, and where it cannot be read."""
    try:
        return job.run.record() if job.run.record_path.exists() else None
    except UserError:
        return None


def last_attempt(record: RunRecord | None, action: str) -> Attempt | None:
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


def hours(job: Job) -> float | None:
    """Hours that a run and its evaluations took so far: GPU hours where it ran on GPUs, else hours of its processes; None before
    it began, or where its records cannot be read."""
    try:
        attempts = all_attempts(job.run) if job.run.record_path.exists() else []
    except UserError:
        return None
    return sum((attempt.seconds or 0.0) * attempt.ranks for attempt in attempts) / 3600 if attempts else None
