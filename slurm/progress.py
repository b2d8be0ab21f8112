"""How far a run is, read from the files it writes: the same for our own jobs and for those of another launcher."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rf_repro.core.files import read_json
from slurm.plan import Job

TAIL_BYTES = 8192


@dataclass(frozen=True)
class Progress:
    """`done` of `total` in a phase: steps in `train`, images in `sample` and `evaluate`."""

    phase: str
    done: int
    total: int
    loss: float | None = None


def read_progress(job: Job) -> Progress:
    """The newer of progress.json and the last row of metrics.jsonl; `start` before either exists."""
    metrics, other = job.run.metrics_path, job.run.path / "progress.json"
    row = _last_row(metrics)
    if other.exists() and (not metrics.exists() or other.stat().st_mtime_ns >= metrics.stat().st_mtime_ns):
        state = read_json(other)
        loss = row.get("loss") if state["phase"] == "train" else None
        return Progress(state["phase"], state["done"], state["total"], loss)
    if "step" in row:
        return Progress("train", row["step"], job.steps, row.get("loss"))
    return Progress("start", 0, job.steps)


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a JSON-lines file that may be growing; empty before the first."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline is still being written
    except FileNotFoundError:
        return {}
    return json.loads(lines[-1]) if lines and lines[-1] else {}


class Watch:
    """Elapsed time and an estimate of what is left of the phase, from the speed seen since this process began to look."""

    def __init__(self, job: Job):
        self.job = job
        self.begin = time.monotonic()
        self.first: dict[tuple[str, int], tuple[float, int]] = {}  # (phase, total) -> when its count was how much
        self.last: dict[tuple[str, int], int] = {}
        self.progress = Progress("start", 0, job.steps)

    def update(self) -> None:
        self.progress = read_progress(self.job)
        key, done = (self.progress.phase, self.progress.total), self.progress.done
        if done < self.last.get(key, done + 1):  # never seen, or begun again: a run samples more than once
            self.first[key] = time.monotonic(), done
        self.last[key] = done

    @property
    def elapsed(self) -> float:
        """Seconds since it was started or found."""
        return time.monotonic() - self.begin

    @property
    def remaining(self) -> float | None:
        """Seconds left in this phase; None before any advance was seen."""
        key = (self.progress.phase, self.progress.total)
        if key not in self.first:
            return None
        since, done = self.first[key]
        advance = self.progress.done - done
        return (time.monotonic() - since) * (self.progress.total - self.progress.done) / advance if advance > 0 else None


def clock(seconds: float | None) -> str:
    """`75.2` -> `1:15`, `3700` -> `1:01:40`, None -> `-`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
