"""How far every action of a grid is, from the files of the runs and the queue: never from memory, never from accounting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rf_repro.core.records import Action, Attempt, RunRecord
from rf_repro.core.run_lock import lock_holder
from rf_repro.data.scenes.world import world_fingerprint
from rf_repro.launch.plan import Job, Plan
from slurm.queue import QueuedJob
from slurm.requeue import read_requeue
from slurm.submission import Element, Ledger

State = Literal["done", "stale", "running", "queued", "failed", "blocked", "resumable", "missing"]
OBSTACLES = ("failed", "blocked", "stale")  # what comes after them has to wait for the user


@dataclass(frozen=True)
class ActionState:
    """`reason`: why it waits, failed or is blocked. `job`: its job in the queue. `element`: its last job, ended or not."""

    state: State
    reason: str = ""
    job: QueuedJob | None = None
    element: Element | None = None


@dataclass(frozen=True)
class Row:
    """One run with the state of each of its actions, in order."""

    job: Job
    record: RunRecord | None
    actions: dict[Action, ActionState]

    @property
    def state(self) -> State:
        """Of the first action that is not done."""
        return next((one.state for one in self.actions.values() if one.state != "done"), "done")


def read_rows(plan: Plan, ledger: Ledger, queue: Mapping[str, QueuedJob]) -> list[Row]:
    """The rows of a plan, in its order; runs are below the ledger's folder."""
    elements = ledger.elements()
    rows: dict[Path, Row] = {}
    fingerprints: dict[object, str] = {}
    for job in plan.jobs:
        record = job.run.record() if job.run.record_path.exists() else None
        if job.config.data.scenes not in fingerprints:
            fingerprints[job.config.data.scenes] = world_fingerprint(job.config.data.scenes)
        stale = _stale(record, fingerprints[job.config.data.scenes])
        lost = next((rows[path] for path in job.after if rows[path].state in OBSTACLES), None)
        obstacle = f"{lost.job.name} {lost.state}" if lost else ""
        actions: dict[Action, ActionState] = {}
        for action in job.actions:
            mine = elements.get((job.run.path.absolute(), action), [])
            if job.run.has_done(action, job.steps):
                state = ActionState("stale" if stale else "done", stale, element=mine[-1] if mine else None)
            else:
                present = all(one.state == "done" for one in actions.values())
                state = _open_state(job, action, record if present else None, mine, queue, ledger, obstacle)
            actions[action] = state
            if state.state in OBSTACLES:
                obstacle = obstacle or f"{action} {state.state}"
        rows[job.run.path] = Row(job, record, actions)
    return list(rows.values())


def _open_state(
    job: Job, action: Action, record: RunRecord | None, elements: Sequence[Element], queue: Mapping[str, QueuedJob],
    ledger: Ledger, obstacle: str,
) -> ActionState:  # fmt: skip
    """Of an action that is not done. `record`: the run's, if this action is the next one to do; None for those after it."""
    last = elements[-1] if elements else None
    queued = next((queue[one.id] for one in elements if one.id is not None and one.id in queue), None)
    if queued is not None:
        return ActionState("queued" if queued.pending else "running", queued.reason if queued.pending else "", queued, last)
    if record is not None and lock_holder(job.run.path) is not None:
        return ActionState("running", "outside the queue", element=last)
    attempt = last_attempt(record, action)
    if attempt is not None and record is not None and record.status == "failed":
        return ActionState("failed", attempt.error or "", element=last)
    fate = read_requeue(ledger.requeue_path(last)) if last is not None else None
    if record is not None and fate is not None and not fate.again:
        crashes = fate.crashes + (fate.state == "running")
        return ActionState(
            "failed", f"cut short {crashes} times" if crashes else "ended before its work began; see its log", element=last
        )
    if obstacle:
        return ActionState("blocked", obstacle, element=last)
    return ActionState("resumable" if attempt is not None else "missing", element=last)


def last_attempt(record: RunRecord | None, action: Action) -> Attempt | None:
    """The last attempt, if it was one of this action."""
    if record is None or not record.attempts or record.attempts[-1].action not in (action, "all"):
        return None
    return record.attempts[-1]


def _stale(record: RunRecord | None, fingerprint: str) -> str:
    """Why what a run has done is no longer what this code would do; empty when it is."""
    if record is None or record.data_fingerprint in (None, fingerprint):
        return ""
    return "made from another version of the data; move the run directory away to have it made again"


def hours(record: RunRecord | None) -> float | None:
    """Hours that a run took so far: GPU hours where it ran on GPUs, else hours of its processes; None before it began."""
    if record is None or not record.attempts:
        return None
    return sum((attempt.seconds or 0.0) * attempt.ranks for attempt in record.attempts) / 3600
