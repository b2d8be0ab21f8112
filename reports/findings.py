"""Everything that a report prints, before it is laid out: runs, scores, verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablations.claims import Claim, Difference
from ablations.grid import AblationGrid
from ablations.registry import GRIDS, get_claims, left_out, reported_grids
from reports.collect import GridRuns, Run, load_runs, select
from reports.levels import Level, find_levels
from reports.measured import MeasuredTable, TableScores, measure
from reports.tables import scale_label
from reports.verdicts import ClaimResult, Gates, gate_values, judge
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale


@dataclass(frozen=True)
class Findings:
    """What the runs of one scale say. `runs` are those that any table counts, each once; `levels` are in other worlds; `left_out`
    are tables of ours that the scale cannot have, and why."""

    scale: str
    tables: list[MeasuredTable]
    runs: list[Run]
    gates: Gates
    claims: list[ClaimResult]
    levels: list[Level]
    left_out: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selected(self) -> list[GridRuns]:
        return [table.runs for table in self.tables]

    @property
    def label(self) -> str:
        """The scale in words, for titles."""
        labels = dict.fromkeys(scale_label(self.scale, table.configs[table.grid.base]) for table in self.selected)
        return ", ".join(labels)

    def judge_all(self, scores: TableScores) -> list[ClaimResult]:
        """The verdict on every claim, by other scores of the same tables."""
        claims, grids = [result.claim for result in self.claims], [table.grid for table in self.selected]
        return judge_all(claims, grids, self.scale, scores, self.gates, self.changes)


def find(folders: Sequence[Path], scale: str, changes: Mapping[str, Any] | None = None, tables: Sequence[str] = ()) -> Findings:
    """Reads the runs below the folders and judges every claim.

    Args:
        changes: dotted path -> value, as the runs were trained with: `--set` and `--data` of `rf-repro train`.
        tables: names of the user's beside all of ours: `my_grid.py:GRID`.

    Raises:
        UserError: a folder does not exist, a record is broken, one table would mix protocols, or a name means no table.
    """
    base = apply_overrides(get_scale(scale), changes or {})
    grids = reported_grids(tables, base)
    loaded = load_runs(folders)
    measured = [measure(select(grid, scale, loaded, changes)) for grid in grids]
    selected = [table.runs for table in measured]
    runs = _distinct(run for table in selected for seeds in (table.rows | table.shared).values() for run in seeds.values())
    gates = gate_values(runs)
    scores = {table.runs.grid.name: table.scores for table in measured}
    results = judge_all(get_claims(tables), grids, scale, scores, gates, changes)
    claims = [_with_compute(result, measured) for result in results]
    return Findings(scale, measured, runs, gates, claims, find_levels(selected, loaded), left_out(base), changes or {})


def judge_all(
    claims: Iterable[Claim], grids: Iterable[AblationGrid], scale: str, scores: TableScores, gates: Gates,
    changes: Mapping[str, Any] | None = None,
) -> list[ClaimResult]:  # fmt: skip
    """The verdict on every claim; a claim whose table has no grid is one that the suite cannot test. `grids`: those measured."""
    known = GRIDS | {grid.name: grid for grid in grids}
    return [judge(claim, scale, scores.get(claim.table, {}), gates, changes, known) for claim in claims]


def _distinct(runs: Iterable[Run]) -> list[Run]:
    return list({run.dir.path: run for run in runs}.values())


def _with_compute(result: ClaimResult, tables: Sequence[MeasuredTable]) -> ClaimResult:
    """The result with the two variants' scores at equal training compute, where there are any."""
    comparison = result.claim.comparison
    if not isinstance(comparison, Difference) or result.measured is None:
        return result
    for table in tables:
        for budget in table.budgets.get(result.claim.columns[0], []) if table.runs.grid.name == result.claim.table else []:
            sides = (comparison.better, comparison.worse)
            if budget.axis == "seconds" and all(side in budget.scores for side in sides):
                texts = " against ".join(f"{table.runs.grid.variant(key).label} {budget.scores[key]:.3f}" for key in sides)
                return replace(result, remark=f"At equal training compute ({budget.budget:,.0f} s): {texts}.")
    return result
