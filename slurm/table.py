"""Tables of a grid for the terminal: what `sweep plan` and `sweep status` show."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from rf_repro.core.action_dir import all_attempts
from rf_repro.core.records import ACTIONS
from rf_repro.core.shown import one_line
from rf_repro.launch.progress import clock, read_progress
from rf_repro.launch.state import hours, last_attempt
from slurm.cost import cost_rows
from slurm.profile import Profile
from slurm.state import JobState, Row, foremost

PLAIN_WIDTH = 200  # columns where nobody's terminal says how many
WHY = 100  # letters of a reason, which must not press the other columns together
LONG_PATH = re.compile(r"/(?:[^/\s:;,]+/)+([^/\s:;,]+/[^/\s:;,]+)")  # its last two names are what tells
STYLES = {"done": "green", "running": "cyan", "queued": "blue", "resumable": "yellow", "failed": "bold red", "blocked": "red",
          "stale": "magenta", "missing": "dim"}  # fmt: skip


def make_console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def plan_table(rows: Sequence[Row]) -> Table:
    """Run, the state of its actions by kind, and hours: measured, or `~` those of the same variant's other runs."""
    kinds, expected = _kinds(rows), expected_hours(rows)
    table = _table("run", *kinds, "hours")
    for row in rows:
        table.add_row(row.job.slug, *_actions(row, kinds), _hours(row, expected))
    return table


def status_table(rows: Sequence[Row]) -> Table:
    """Run, the state of its actions by kind, how far the present one is, its job, and the reason where it does not run."""
    kinds = _kinds(rows)
    table = _table("run", *kinds, "progress", "left", "starts", "job", "where or why")
    for row in rows:
        state = row.state
        action, now = next(((name, one) for name, one in row.actions.items() if one.state == state != "done"), (None, None))
        starts = len(all_attempts(row.job.run)) if row.record is not None else 0
        cells = _actions(row, kinds)
        table.add_row(row.job.slug, *cells, *_progress(row, action, now), str(starts or "-"), _job(now), _why(now))
    return table


def actions_table(rows: Sequence[Row]) -> Table:
    """Every action of some runs: its state, its shares that are done, how far it is, its jobs, and why it does not run."""
    table = _table("run", "action", "state", "shares", "progress", "left", "job", "where or why")
    for row in rows:
        for action, one in row.actions.items():
            progress = _progress(row, action, one) if one.state != "done" else ("-", "-")
            shares = f"{one.shares.count('done')}/{len(one.shares)}" if len(one.shares) > 1 else "-"
            table.add_row(row.job.slug, action, _cell(one), shares, *progress, _job(one), _why(one))
    return table


def costs(rows: Sequence[Row], profile: Profile) -> Group:
    """Every action of a grid, seeds together: its jobs, the GPUs of each, and GPU hours, by estimate. `profile`: names a GPU."""
    found = cost_rows([row.job for row in rows], profile)
    table = _table("variant", "action", "runs", "jobs each", "GPUs a job", "GB on a GPU", "GPU hours")
    for row in found:
        cost = row.cost
        memory = f"{cost.device_bytes / 1e9:.0f}{', in phases' if cost.in_phases else ''}" if cost.device_bytes else "-"
        hours = f"{row.gpu_hours:,.0f}" if row.gpu_hours >= 10 else f"{row.gpu_hours:.2g}"
        table.add_row(row.variant, row.action, str(row.runs), str(cost.jobs), str(cost.gpus), memory, hours)
    total = sum(row.gpu_hours for row in found)
    return Group(f"\nby estimate, on {profile.gpu}:", table, f"{total:,.0f} GPU hours in all\n")


def summary(rows: Sequence[Row]) -> str:
    """`7 runs: 3 done, 2 queued, 2 missing; 4 of 19 actions done, 1.20 hours used`."""
    states = Counter(row.state for row in rows)
    counts = ", ".join(
        f"{count} {state}" for state, count in sorted(states.items(), key=lambda item: list(STYLES).index(item[0]))
    )
    actions = [one.state for row in rows for one in row.actions.values()]
    used = sum(hours(row.job) or 0.0 for row in rows)
    expected = expected_hours(rows)
    guesses = [expected[row.job.variant] for row in rows if row.state != "done" and row.job.variant in expected]
    text = f"{len(rows)} runs: {counts or 'none'}; {actions.count('done')} of {len(actions)} actions done, {used:.3g} hours used"
    left = sum(row.state != "done" for row in rows)
    return text + (f", about {sum(guesses):.3g} more for {len(guesses)} of the {left} left" if guesses else "")


def expected_hours(rows: Sequence[Row]) -> dict[str, float]:
    """Variant -> mean hours of its finished runs; variants without one are left out."""
    known: dict[str, list[float]] = {}
    for row in rows:
        if row.state == "done":
            known.setdefault(row.job.variant, []).append(hours(row.job) or 0.0)
    return {variant: sum(values) / len(values) for variant, values in known.items()}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _kinds(rows: Sequence[Row]) -> list[str]:
    """The kinds of actions that there are a column for."""
    there = {row.job.kind_of(action) for row in rows for action in row.actions}
    return [*ACTIONS, *(["answer"] if "answer" in there else [])]


def _actions(row: Row, kinds: Sequence[str]) -> list[str]:
    return [_of_kind([one for action, one in row.actions.items() if row.job.kind_of(action) == kind]) for kind in kinds]


def _of_kind(found: Sequence[JobState]) -> str:
    """One state for all actions of a kind, and how many of them are done."""
    if len(found) == 1:
        return _cell(found[0])
    if not found:
        return "-"
    state, done = foremost(one.state for one in found), sum(one.state == "done" for one in found)
    return f"[{STYLES[state]}]{state}[/]" + (f" {done}/{len(found)}" if state != "done" else "")


def _cell(one: JobState) -> str:
    return f"[{STYLES[one.state]}]{one.state}[/]"


def _hours(row: Row, expected: Mapping[str, float]) -> str:
    if row.state == "done":
        return f"{hours(row.job) or 0.0:.3g}"
    return f"~{expected[row.job.variant]:.3g}" if row.job.variant in expected else "?"


def _progress(row: Row, action: str | None, now: JobState | None) -> tuple[str, str]:
    """(`train 120/3000, loss 1.2`, time left at this start's speed)."""
    if now is None or action is None:
        return "-", "-"
    if row.job.evaluation(action) is not None:
        progress = read_progress(row.job, action)
        return ("-" if progress.phase == "start" else f"{action} {progress.done}/{progress.total}"), "-"
    attempt, left = last_attempt(row.record, action), None
    if attempt is None:
        return "-", "-"
    progress = read_progress(row.job)
    loss = "" if progress.loss is None else f", loss {progress.loss:.3g}"
    if now.state == "running" and progress.phase == "train" and progress.done > attempt.from_step:
        elapsed = (datetime.now(UTC) - datetime.fromisoformat(attempt.started)).total_seconds()
        left = elapsed / (progress.done - attempt.from_step) * (progress.total - progress.done)
    return f"{progress.phase} {progress.done}/{progress.total}{loss}", clock(left)


def _job(now: JobState | None) -> str:
    if now is None or now.job is None:
        return "-"
    return now.job.id + (f" and {len(now.jobs) - 1} more" if len(now.jobs) > 1 else "")


def _why(now: JobState | None) -> str:
    if now is None:
        return ""
    if now.state == "running" and now.job is not None:
        return f"{now.job.nodes}, {now.job.elapsed}"
    reason = LONG_PATH.sub(r"…\1", one_line(now.reason))
    return escape(reason if len(reason) <= WHY else reason[: WHY - 1] + "…")  # `sweep logs` has all of it
