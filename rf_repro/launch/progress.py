"""How far a run is, read from the files it writes: the same for our own jobs and for those of another launcher."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_object
from rf_repro.core.records import METRICS
from rf_repro.core.typed import Count, row_of
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import open_plain
from rf_repro.core.untrusted.problems import shown
from rf_repro.launch.forecast import Speed, seconds_left
from rf_repro.launch.plan import TRAIN, Job

TAIL_BYTES = 8192
SETTLED = 15.0  # forecast seconds of work before a run's own pace counts


@dataclass(frozen=True)
class Progress:
    """`done` of `total` in a phase: steps in `train`, images in `sample` and `evaluate`. `step`: the last one logged."""

    phase: str
    done: int
    total: int
    loss: float | None = None
    step: int = 0


def read_progress(job: Job, action: str | None = None) -> Progress:
    """The newer of progress.json, of the run or of a share of its evaluations, and the last row of metrics.jsonl; `start` before
    any of them exists.

    Args:
        action: an evaluation whose progress alone is wanted, that of its slowest share; None: the newest of all.
    """
    metrics, run = job.run.metrics_path, job.run.path
    row = _last_row(metrics)
    if action is not None:
        shares = [_read_state(path) for path in run.glob(f"actions/{action}/*-of-*/progress.json")]
        slowest = min(shares, key=lambda state: state["done"] / max(1, state["total"]), default=None)
        return Progress(slowest["phase"], slowest["done"], slowest["total"]) if slowest else Progress("start", 0, 1)
    written = [path for path in (job.run.progress_path, *run.glob("actions/*/*-of-*/progress.json")) if path.exists()]
    other = max(written, key=lambda path: path.stat().st_mtime_ns, default=None)
    if other is not None and (not metrics.exists() or other.stat().st_mtime_ns >= metrics.stat().st_mtime_ns):
        state = _read_state(other)
        loss = row.get("loss") if state["phase"] == TRAIN else None
        return Progress(state["phase"], state["done"], state["total"], loss, row.get("step", 0))
    if "step" in row:
        return Progress(TRAIN, row["step"], job.steps, row.get("loss"), row["step"])
    return Progress("start", 0, job.steps)


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a JSON-lines file that may be growing; empty before the first."""
    if not path.exists():
        return {}
    with open_plain(path) as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).split(b"\n")[:-1]  # what follows the last newline is still being written
    if not lines or not lines[-1]:
        return {}
    try:
        row = parse_json(lines[-1])
    except ValueError as error:
        raise UserError(f"{path}: its last line is not valid JSON ({error}); mend or remove it") from None
    return row_of(row, f"{path}: last line", METRICS, float | None)


def _read_state(path: Path) -> dict[str, Any]:
    state = read_object(path, {"phase": str, "done": Count, "total": Count})
    return {**state, "phase": shown(state["phase"]), "done": state["done"], "total": state["total"]}


class Watch:
    """Elapsed time and an estimate of what is left of the whole run, sampling and scoring included: by forecast, corrected by the
    pace seen since this process began to look.

    Args:
        speed: of the run on this machine.
        is_measured: whether the forecast counts before any pace was seen.
    """

    def __init__(self, job: Job, speed: Speed | None = None, is_measured: bool = False):
        self.job, self.speed, self.is_measured = job, speed or Speed(), is_measured
        self.begin = time.monotonic()
        self.seen: tuple[float, float] | None = None  # when it was first seen at work, and the forecast seconds left then
        self.progress = Progress("start", 0, job.steps)

    def update(self) -> None:
        self.progress = read_progress(self.job)
        if self.seen is None and self.progress.phase != "start":
            self.seen = time.monotonic(), self._forecast()

    def _forecast(self) -> float:
        return seconds_left(self.job, self.speed, self.progress.step, self.progress.phase, self.progress.done)

    @property
    def elapsed(self) -> float:
        """Seconds since it was started or found."""
        return time.monotonic() - self.begin

    @property
    def pace(self) -> float | None:
        """Seconds that a forecast second takes; None before enough of them were seen."""
        if self.seen is None:
            return None
        since, left = self.seen
        advance = left - self._forecast()
        return (time.monotonic() - since) / advance if advance > (SETTLED if self.is_measured else 0) else None

    @property
    def remaining(self) -> float | None:
        """Seconds left of the run; None before there is anything to tell it from."""
        pace = self.pace
        if pace is None:
            return self._forecast() if self.is_measured else None
        return pace * self._forecast()


def clock(seconds: float | None) -> str:
    """`75.2` -> `1:15`, `3700` -> `1:01:40`, None -> `-`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
