"""One table's numbers, before they are printed: scores of every cell, learning curves, and equal budgets."""

from collections.abc import Mapping
from dataclasses import dataclass

from ablations.grid import GENEVAL
from reports.collect import GridRuns, RowScores, collect_scores, require_one_protocol
from reports.curves import AXES, EqualBudget, Point, curve, equal_budget

TableScores = Mapping[str, Mapping[str, Mapping[str, RowScores]]]  # table -> column key -> row key
Curves = Mapping[str, Mapping[int, list[Point]]]  # row key -> seed -> curve


@dataclass(frozen=True)
class MeasuredTable:
    """`scores[column key][row key]`; `curves` by column key, of columns that are scored on the way; `budgets` likewise, of those
    that score images."""

    runs: GridRuns
    scores: dict[str, dict[str, RowScores]]
    curves: dict[str, Curves]
    budgets: dict[str, list[EqualBudget]]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for rows in self.scores.values() for row in rows.values() for seed in row.results})

    def measured_runs(self, column: str) -> set[str]:
        """Names of the runs with a score in a column."""
        rows = self.scores[column].items()
        return {self.runs.rows[key][seed].name for key, row in rows for seed in row.results}


def measure(runs: GridRuns) -> MeasuredTable:
    """Reads what the table's runs recorded.

    Raises:
        UserError: results of different protocols would be compared, or a record contradicts its own items.
    """
    grid = runs.grid
    scores = {column.key: collect_scores(runs, column) for column in grid.columns}
    curves: dict[str, Curves] = {}
    budgets: dict[str, list[EqualBudget]] = {}
    for column in grid.columns:
        lines = {key: {seed: curve(run, column) for seed, run in row.items()} for key, row in runs.rows.items()}
        points = [point for row in lines.values() for line in row.values() for point in line]
        on_the_way = {point.protocol: point.record for point in points if point.record.stem != column.evaluation}
        if column.evaluation != GENEVAL.evaluation and not on_the_way:
            continue
        require_one_protocol(grid, f"the curves of {column.label}", on_the_way)
        curves[column.key] = lines
        if column.evaluation == GENEVAL.evaluation:
            done = {
                key: {seed: lines[key][seed] for seed in row.results} for key, row in scores[column.key].items() if row.results
            }
            budgets[column.key] = [budget for axis in AXES if (budget := equal_budget(done, axis)) is not None]
    return MeasuredTable(runs, scores, curves, budgets)
