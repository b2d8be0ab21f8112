"""Tables of a grid for the terminal: what `sweep plan` and `sweep status` show."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from rf_repro.core.records import ACTIONS, Action
from rf_repro.launch.progress import clock, read_progress
from rf_repro.launch.state import hours, last_attempt
from slurm.state import JobState, Row

PLAIN_WIDTH = 200  # columns where nobody's terminal says how many
STYLES = {"done": "green", "running": "cyan", "queued": "blue", "resumable": "yellow", "failed": "bold red", "blocked": "red",
          "stale": "magenta", "missing": "dim"}  # fmt: skip


def make_console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def plan_table(rows: Sequence[Row]) -> Table:
    """Run, the state of each action, and hours: measured, or `~` those of the same variant's other runs."""
    table, expected = _table("run", *ACTIONS, "hours"), expected_hours(rows)
    for row in rows:
        table.add_row(row.job.slug, *_actions(row), _hours(row, expected))
    return table


def status_table(rows: Sequence[Row]) -> Table:
    """Run, the state of each action, how far the present one is, its job, and the reason where it does not run."""
    table = _table("run", *ACTIONS, "progress", "left", "starts", "job", "where or why")
    for row in rows:
        action, now = next(((action, one) for action, one in row.actions.items() if one.state != "done"), (None, None))
        starts = str(len(row.record.attempts)) if row.record and row.record.attempts else "-"
        table.add_row(row.job.slug, *_actions(row), *_progress(row, action, now), starts, _job(now), _why(now))
    return table


def summary(rows: Sequence[Row]) -> str:
    """`7 runs: 3 done, 2 queued, 2 missing; 4 of 19 actions done, 1.20 hours used`."""
    states = Counter(row.state for row in rows)
    counts = ", ".join(
        f"{count} {state}" for state, count in sorted(states.items(), key=lambda item: list(STYLES).index(item[0]))
    )
    actions = [one.state for row in rows for one in row.actions.values()]
    used = sum(hours(row.record) or 0.0 for row in rows)
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
            known.setdefault(row.job.variant, []).append(hours(row.record) or 0.0)
    return {variant: sum(values) / len(values) for variant, values in known.items()}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _actions(row: Row) -> list[str]:
    return [_cell(row.actions[action]) if action in row.actions else "-" for action in ACTIONS]


def _cell(one: JobState) -> str:
    return f"[{STYLES[one.state]}]{one.state}[/]"


def _hours(row: Row, expected: Mapping[str, float]) -> str:
    if row.state == "done":
        return f"{hours(row.record) or 0.0:.3g}"
    return f"~{expected[row.job.variant]:.3g}" if row.job.variant in expected else "?"


def _progress(row: Row, action: Action | None, now: JobState | None) -> tuple[str, str]:
    """(`train 120/3000, loss 1.2`, time left at this start's speed)."""
    attempt, left = last_attempt(row.record, action) if action else None, None
    if now is None or attempt is None:
        return "-", "-"
    progress = read_progress(row.job)
    loss = "" if progress.loss is None else f", loss {progress.loss:.3g}"
    if now.state == "running" and progress.phase == "train" and progress.done > attempt.from_step:
        elapsed = (datetime.now(UTC) - datetime.fromisoformat(attempt.started)).total_seconds()
        left = elapsed / (progress.done - attempt.from_step) * (progress.total - progress.done)
    return f"{progress.phase} {progress.done}/{progress.total}{loss}", clock(left)


def _job(now: JobState | None) -> str:
    return now.job.id if now is not None and now.job is not None else "-"


def _why(now: JobState | None) -> str:
    if now is None:
        return ""
    if now.state == "running" and now.job is not None:
        return f"{now.job.nodes}, {now.job.elapsed}"
    return now.reason
