"""How far every action of a grid is, from the files of the runs and the queue: never from memory, never from accounting."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rf_repro.core.records import RunRecord
from rf_repro.launch.plan import Job, Plan
from rf_repro.launch.state import OBSTACLES, ActionState, State, action_state, record_of
from slurm.profile import Profile
from slurm.queue import QueuedJob
from slurm.requeue import read_requeue
from slurm.submission import Element, Ledger

FOREMOST: tuple[State, ...] = ("running", "queued", "failed", "blocked", "stale", "resumable", "missing")


@dataclass(frozen=True)
class JobState(ActionState):
    """Of an action that is a job, or several that share it out.

    Attributes:
        jobs: in the queue.
        element: its last job, ended or not.
        shares: the state of each share, in order.
    """

    jobs: tuple[QueuedJob, ...] = ()
    element: Element | None = None
    shares: tuple[State, ...] = ()

    @property
    def job(self) -> QueuedJob | None:
        """The first of them that runs, or else waits."""
        return next((job for job in self.jobs if not job.pending), self.jobs[0] if self.jobs else None)


@dataclass(frozen=True)
class Row:
    """One run with the state of each of its actions, in order."""

    job: Job
    record: RunRecord | None
    actions: dict[str, JobState]

    @property
    def state(self) -> State:
        """What most asks for attention of all that is not done."""
        return foremost(one.state for one in self.actions.values())

    @property
    def trained(self) -> JobState:
        """What comes after the run waits for this alone."""
        return next(iter(self.actions.values()))


def foremost(states: Iterable[State]) -> State:
    """Of several states of what goes on side by side, the one to show."""
    there = set(states)
    return next((state for state in FOREMOST if state in there), "done")


def read_rows(plan: Plan, ledger: Ledger, queue: Mapping[str, QueuedJob], profile: Profile) -> list[Row]:
    """The rows of a plan, in its order; runs are below the ledger's folder."""
    elements = ledger.elements()
    rows: dict[Path, Row] = {}
    for job in plan.jobs:
        record = record_of(job)
        lost = next((rows[path] for path in job.after if rows[path].trained.state in OBSTACLES), None)
        lacking = f"{lost.job.name} {lost.trained.state}" if lost else ""
        actions: dict[str, JobState] = {}
        for action in job.actions:
            before = [(name, actions[name]) for name in job.before(action)]
            is_next = record is not None and all(one.state == "done" for _, one in before)
            obstacle = lacking or next((_obstacle(name, one) for name, one in before if one.state in OBSTACLES), "")
            mine = elements.get((job.run.path.absolute(), action), [])
            count = profile.shares_of(job.kind_of(action)) if job.evaluation(action) else 1
            parts = [
                _with_queue(
                    action_state(job, action, record, is_next, obstacle, (index, count)), is_next,
                    [one for one in mine if one.share == (index, count)], queue, ledger,
                )
                for index in range(count)
            ]  # fmt: skip
            others = [one for one in mine if one.share[1] != count]  # submitted when the profile shared out otherwise
            parts += [_queued(queue[one.id], one) for one in others if one.id is not None and one.id in queue]
            actions[action] = _together(parts, count)
        rows[job.run.path] = Row(job, record, actions)
    return list(rows.values())


def _obstacle(name: str, one: JobState) -> str:
    """What comes after a blocked action is blocked by the same."""
    return one.reason if one.state == "blocked" else f"{name} {one.state}"


def _together(parts: Sequence[JobState], count: int) -> JobState:
    state = foremost(part.state for part in parts)
    if state == "missing" and any(part.state == "done" for part in parts):
        state = "resumable"
    shown = next((part for part in parts if part.state == state), parts[0])
    return JobState(
        state, shown.reason, tuple(job for part in parts for job in part.jobs), shown.element,
        tuple(part.state for part in parts[:count]),
    )  # fmt: skip


def _queued(job: QueuedJob, element: Element | None) -> JobState:
    return JobState("queued" if job.pending else "running", job.reason if job.pending else "", (job,), element)


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
        return _queued(queued, last)
    if by_files.state in ("running", "failed") or not is_next or last is None:
        return plain
    fate = read_requeue(ledger.requeue_path(last))
    if fate is None or fate.again:
        return plain
    crashes = fate.crashes + (fate.state == "running")
    reason = f"cut short {crashes} times" if crashes else "ended before its work began; see its log"
    return JobState("failed", reason, element=last)
