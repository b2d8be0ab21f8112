"""Table 1's last column: DPG-Bench on images of the largest size. mPLUG's score stands beside published ones; another judge's is
printed under that judge's name and compared with none of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ablations.grid import Column
from reports.collect import GridRuns, RowScores, collect_scores
from reports.tables import numbers, show
from rf_repro.core.dpg_names import JUDGED, dpg_name

TASK = "dpg"  # tag of the items, one a prompt with its score as a share, and the metric of the records
DPG = Column("dpg", "DPG", "dpg", TASK, (TASK,), cluster="prompt")


@dataclass(frozen=True)
class DpgCell:
    """What one cell prints, its rows of the CSV, and what a reader must know beside it."""

    text: str
    records: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def dpg_names(runs: GridRuns, row: str) -> list[str]:
    """What a row's DPG results on images of the largest size are called: mPLUG's, whether there is one, then other judges'."""
    largest = runs.configs[row]["model"]["max_image_size"]
    name = dpg_name(largest, largest, None)
    found = {other for run in runs.rows[row].values() for other in run.results}
    return [name, *sorted(other for other in found if other.startswith(name + JUDGED))]


def dpg_cell(runs: GridRuns, row: str, published: float | None, plain: RowScores) -> DpgCell:
    """The cell of a row, from results on images of the largest size that the model draws.

    Args:
        plain: mPLUG's scores, or why there are none.

    Raises:
        UserError: a record contradicts its own items, or seeds were measured in different ways.
    """
    measured = plain.interval(DPG.tasks) if plain.results else None
    records = [{"column": "dpg", **numbers(measured), "paper": published, "notes": plain.reason}]
    shown = [] if measured is None else [show(measured, digits=2)]
    notes = list(_notes("DPG", plain))
    for evaluation in dpg_names(runs, row)[1:]:
        score = collect_scores(runs, replace(DPG, evaluation=evaluation), [row])[row]
        if not score.results:
            continue
        label = f"DPG({next(iter(score.results.values())).evaluator['judge']})"
        own = score.interval(DPG.tasks)
        shown.append(f"{label} {show(own, digits=2)}")
        records.append({"column": label, **numbers(own), "paper": None, "notes": "not comparable with published DPG"})
        notes += [*_notes(label, score), f"{label} is not comparable with published DPG, which mPLUG scored"]
    return DpgCell("; ".join(shown) or f"not run: {plain.reason}", tuple(records), tuple(dict.fromkeys(notes)))


def _notes(label: str, score: RowScores) -> Iterator[str]:
    yield from (f"{label}: {note}" for note in score.notes)
    for seed, result in score.results.items():
        official = result.metrics.get("dpg_official")
        counted = "" if official is None else f"; {official:.4f} as the official script counts"
        yield f"{label}, seed {seed}: {result.protocol}, by {result.evaluator['judge_revision']}{counted}"
