"""The rows of a table at equal steps and at equal training compute."""

from collections.abc import Mapping, Sequence

from ablations.grid import Column
from reports.collect import GridRuns, RowScores, machine
from reports.curves import EqualBudget
from reports.tables import Table, scale_label


def budget_table(runs: GridRuns, column: Column, budgets: Sequence[EqualBudget], scores: Mapping[str, RowScores]) -> Table:
    """The score of each row at the largest budgets that all measured rows reached."""
    header = {"step": "At {:,.0f} steps", "seconds": "At {:,.0f} s of training compute"}
    return Table(
        name=f"{runs.grid.name}-budget",
        title=f"{column.label} at equal steps and at equal compute, {scale_label(runs.scale, runs.configs[runs.grid.base])}",
        caption="The largest budget that every run reached, read off the curves by linear interpolation; mean over seeds.",
        header=("Variant", *(header[budget.axis].format(budget.budget) for budget in budgets)),
        rows=tuple(
            (row.label, *(f"{budget.scores[row.key]:.3f}" for budget in budgets))
            for row in runs.grid.rows
            if row.key in budgets[0].scores
        ),
        records=tuple(
            {"row": key, "axis": budget.axis, "budget": budget.budget, "score": score}
            for budget in budgets
            for key, score in budget.scores.items()
        ),
        notes=tuple(_notes(runs, scores)),
    )


def _notes(runs: GridRuns, scores: Mapping[str, RowScores]) -> list[str]:
    """What a step costs each row, and whether the machines allow the comparison."""
    used = {key: [runs.rows[key][seed] for seed in score.results] for key, score in scores.items() if score.results}
    costs = {key: sum(run.record.compute_seconds for run in row) / max(1, sum(run.record.steps for run in row))
             for key, row in used.items()}  # fmt: skip
    least = min(costs.values())
    notes = []
    if least > 0:
        listed = ", ".join(f"{scores[key].variant.label} {cost:.3f} s ({cost / least:.2f}x)" for key, cost in costs.items())
        notes.append(f"Training compute a step: {listed}. Stages that rows share are not counted.")
        notes.append(
            "At equal compute a row whose runs go on beyond the budget is read off its curve on the way, before its learning "
            "rate has decayed; a run with its schedule cut to that budget was not made."
        )
    devices = sorted({machine(attempt) for row in used.values() for run in row for attempt in run.record.attempts})
    if len(devices) > 1:
        listed = "; ".join(devices)
        notes.append(f"The runs were trained on different devices ({listed}), so their compute is not comparable.")
    return notes
