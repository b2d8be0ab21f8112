"""How far every action of a grid is, from the files of the runs and the queue: never from memory, never from accounting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rf_repro.core.records import Action, RunRecord
from rf_repro.launch.plan import Job, Plan
from rf_repro.launch.state import OBSTACLES, ActionState, State, action_state
from slurm.queue import QueuedJob
from slurm.requeue import read_requeue
from slurm.submission import Element, Ledger


@dataclass(frozen=True)
class JobState(ActionState):
    """Of an action that is a job. `job`: in the queue. `element`: its last job, ended or not."""

    job: QueuedJob | None = None
    element: Element | None = None


@dataclass(frozen=True)
class Row:
    """One run with the state of each of its actions, in order."""

    job: Job
    record: RunRecord | None
    actions: dict[Action, JobState]

    @property
    def state(self) -> State:
        """Of the first action that is not done."""
        return next((one.state for one in self.actions.values() if one.state != "done"), "done")


def read_rows(plan: Plan, ledger: Ledger, queue: Mapping[str, QueuedJob]) -> list[Row]:
    """The rows of a plan, in its order; runs are below the ledger's folder."""
    elements = ledger.elements()
    rows: dict[Path, Row] = {}
    for job in plan.jobs:
        record = job.run.record() if job.run.record_path.exists() else None
        before = [(rows[path].job.name, rows[path].actions["train"].state) for path in job.after]
        obstacle = next((f"{name} {state}" for name, state in before if state in OBSTACLES), "")
        actions: dict[Action, JobState] = {}
        for action in job.actions:
            is_next = record is not None and all(one.state == "done" for one in actions.values())
            by_files = action_state(job, action, record, is_next, obstacle)
            mine = elements.get((job.run.path.absolute(), action), [])
            state = actions[action] = _with_queue(by_files, is_next, mine, queue, ledger)
            if state.state in OBSTACLES:
                obstacle = obstacle or f"{action} {state.state}"
        rows[job.run.path] = Row(job, record, actions)
    return list(rows.values())


def _with_queue(
    by_files: ActionState, is_next: bool, elements: Sequence[Element], queue: Mapping[str, QueuedJob], ledger: Ledger
) -> JobState:
    """What the queue, and the file about starting again, add to what the run's own files say."""
    last = elements[-1] if elements else None
    plain = JobState(by_files.state, by_files.reason, element=last)
    if by_files.state in ("done", "stale"):
        return plain
    queued = next((queue[one.id] for one in elements if one.id is not None and one.id in queue), None)
    if queued is not None:
        return JobState("queued" if queued.pending else "running", queued.reason if queued.pending else "", queued, last)
    if by_files.state in ("running", "failed") or not is_next or last is None:
        return plain
    fate = read_requeue(ledger.requeue_path(last))
    if fate is None or fate.again:
        return plain
    crashes = fate.crashes + (fate.state == "running")
    reason = f"cut short {crashes} times" if crashes else "ended before its work began; see its log"
    return JobState("failed", reason, element=last)
