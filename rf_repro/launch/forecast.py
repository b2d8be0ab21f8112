"""How long the runs of a plan will take on this machine: what is left of each, and what a unit of it costs here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rf_repro.launch.plan import Job
from rf_repro.worlds import Piece, world_of


@dataclass(frozen=True)
class Speed:
    """Seconds of one process for a step, an image drawn, an image scored, a question answered. The defaults are a laptop's at
    `tiny`: where nothing was measured they weigh the parts of a run against each other."""

    step: float = 0.25
    draw: float = 0.03
    score: float = 0.01
    answer: float = 0.003


def pieces(job: Job) -> list[Piece]:
    """What completes the run besides its steps."""
    return world_of(job.config).pieces(job.config, None if job.prerequisite is None else job.prerequisite.kind)


def seconds_left(job: Job, speed: Speed, step: int = 0, phase: str = "", done: int = 0) -> float:
    """Of the whole run, by forecast.

    Args:
        step: the last one that it logged.
        phase, done: what it does beside training, and how many of it are done: `sample`, `evaluate` (images), `answer`.
    """
    left = max(0, job.steps - step) * speed.step
    open_pieces = [piece for piece in pieces(job) if not (job.run.path / piece.record).exists()]
    for piece in open_pieces:
        left += piece.drawn * speed.draw + piece.scored * speed.score + piece.answered * speed.answer
    if open_pieces and phase == "evaluate":
        left -= open_pieces[0].drawn * speed.draw  # what is scored was drawn
    left -= {"sample": speed.draw, "evaluate": speed.score, "answer": speed.answer}.get(phase, 0.0) * done
    return max(0.0, left)


def time_of_all(active: Mapping[Path, float], waiting: Sequence[tuple[Job, float]], slots: int) -> float:
    """Seconds until everything is done, `slots` at a time in the order given, each after what it needs.

    Args:
        active: run directory -> seconds left.
        waiting: with the seconds that each will take.
    """
    busy, queue, now = dict(active), list(waiting), 0.0
    while busy or queue:
        open_paths = {*busy, *(job.run.path for job, _ in queue)}
        ready = [item for item in queue if not open_paths & set(item[0].after)]
        for item in ready[: max(0, slots - len(busy))]:
            queue.remove(item)
            busy[item[0].run.path] = now + item[1]
        if not busy:
            break  # what is left waits for something outside
        ended = min(busy, key=busy.__getitem__)
        now = max(now, busy.pop(ended))
    return now
