"""Learning curves: a score against steps and against training compute, and the scores at equal amounts of either."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ablations.grid import Column
from reports.runs import Run
from rf_repro.core.records import EvalResult

Axis = Literal["step", "seconds"]
AXES: tuple[Axis, ...] = ("step", "seconds")


@dataclass(frozen=True)
class Point:
    """One evaluation on a run's way. `seconds` is training compute so far; None when the run logged none."""

    step: int
    seconds: float | None
    score: float
    n: int
    protocol: str
    record: Path


@dataclass(frozen=True)
class EqualBudget:
    """Scores of several variants at one budget, the largest that every one of their runs reached."""

    axis: Axis
    budget: float
    scores: dict[str, float]


def curve(run: Run, column: Column) -> list[Point]:
    """The run's evaluations `<evaluation>-step...` in order of step, and its final score as the last point.

    The final score rests on more images of the same kinds of prompt than the others, and stands in place of a point at
    its own step.
    """
    rows = [row for row in run.metrics if "compute_seconds" in row]
    steps, seconds = [0, *(row["step"] for row in rows)], [0.0, *(row["compute_seconds"] for row in rows)]

    def point(result: EvalResult, step: int, name: str) -> Point | None:
        score = result.metrics.get(column.metric)
        if score is None:
            return None
        spent = float(np.interp(step, steps, seconds)) if rows else None
        return Point(step, spent, score, result.n, result.protocol, run.dir.evals / f"{name}.json")

    found: dict[int, Point | None] = {}
    for name, result in run.results.items():
        if name.startswith(f"{column.evaluation}-step") and result.step is not None:
            found[result.step] = point(result, result.step, name)
    final = run.results.get(column.evaluation)
    if final is not None:
        last = final.step if final.step is not None else run.record.steps
        found[last] = point(final, last, column.evaluation)
    return [found_point for _, found_point in sorted(found.items()) if found_point is not None]


def equal_budget(curves: Mapping[str, Mapping[int, Sequence[Point]]], axis: Axis) -> EqualBudget | None:
    """Each variant's mean score over seeds at the largest budget that all runs reached, interpolating linearly.

    Args:
        curves: variant -> seed -> curve.

    Returns:
        None with fewer than two variants, when a run has no curve, or when some curve starts only after that budget.
    """
    lines = {key: [[(getattr(p, axis), p.score) for p in line] for line in seeds.values()] for key, seeds in curves.items()}
    every = [line for seeds in lines.values() for line in seeds]
    if len(lines) < 2 or not all(lines.values()) or not all(every) or any(x is None for line in every for x, _ in line):
        return None
    budget = min(line[-1][0] for line in every)
    if any(line[0][0] > budget for line in every):
        return None
    scores = {key: float(np.mean([_at(line, budget) for line in seeds])) for key, seeds in lines.items()}
    return EqualBudget(axis, float(budget), scores)


def _at(line: Sequence[tuple[float, float]], budget: float) -> float:
    return float(np.interp(budget, [x for x, _ in line], [score for _, score in line]))
