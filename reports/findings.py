"""Everything that a report prints, before it is laid out: runs, scores, verdicts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablations.claims import Claim, Difference
from ablations.grid import GENEVAL, AblationGrid
from ablations.registry import GRIDS, get_claims, left_out, reported_grids
from ablations.table1 import TABLE1
from reports.collect import GridRuns, select
from reports.contact_sheet import read_sheets
from reports.dpg_column import DPG
from reports.levels import Level, find_levels
from reports.measured import MeasuredTable, TableScores, measure
from reports.runs import DamagedRun, Run, read_runs
from reports.systems import SystemRow, compared, other_judge, system_rows
from reports.systems_table import COVERED
from reports.tables import scale_label
from reports.verdicts import ClaimResult, Gates, decide_together, gate_values, judge
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say


@dataclass(frozen=True)
class Findings:
    """What the runs of one scale say.

    Attributes:
        tables: the ablations, and tables of the user's own.
        systems: Table 1 by our own runs.
        system_rows: every row that the paper's Table 1 has.
        runs: those of ours that any table counts, each once.
        levels: runs in other worlds.
        left_out: tables that the scale cannot have, and why.
        damaged: runs that cannot be read, or contradict themselves.
    """

    scale: str
    tables: list[MeasuredTable]
    systems: MeasuredTable
    system_rows: list[SystemRow]
    runs: list[Run]
    gates: Gates
    claims: list[ClaimResult]
    levels: list[Level]
    left_out: Mapping[str, str] = field(default_factory=dict)
    damaged: tuple[DamagedRun, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selected(self) -> list[GridRuns]:
        return [table.runs for table in self.tables]

    @property
    def label(self) -> str:
        """The scale in words, for titles."""
        labels = dict.fromkeys(scale_label(self.scale, table.configs[table.grid.base]) for table in self.selected)
        return ", ".join(labels)

    def judge_all(self, scores: TableScores, level: Level | None = None) -> list[ClaimResult]:
        """The verdict on every claim, by other scores of the same tables; gates are of the level's own components."""
        grids = [table.grid for table in self.selected]
        tables = {grid.name for grid in grids}
        claims = [result.claim for result in self.claims if result.claim.table in tables]
        if level is None:
            return judge_all(claims, grids, self.scale, scores, self.gates, self.changes)
        gates, changes = gate_values([*level.runs, *level.components]), {**self.changes, **level.changes}
        return judge_all(claims, grids, self.scale, scores, gates, changes)


def find(folders: Sequence[Path], scale: str, changes: Mapping[str, Any] | None = None, tables: Sequence[str] = ()) -> Findings:
    """Reads the runs below the folders and judges every claim. Runs that are damaged are left out, with a line on stderr each.

    Args:
        changes: dotted path -> value, as the runs were trained with: `--set` and `--data` of `rf-repro train`.
        tables: names of the user's beside all of ours: `my_grid.py:GRID`.

    Raises:
        UserError: a folder does not exist, all runs are damaged, one table would mix protocols, or a name means no table.
    """
    base = apply_overrides(get_scale(scale), changes or {})
    grids = reported_grids(tables, base)
    loaded, damaged = read_runs(folders)
    while True:
        if damaged and not loaded:
            raise damaged[0]
        try:
            findings = _find(loaded, grids, base, changes, tables)
        except DamagedRun as found:
            damaged.append(found)
            loaded = [run for run in loaded if run.dir.path != found.path]
        else:
            break
    for one in damaged:
        say(f"rf-repro: left out {one.path}: {one.why}", file=sys.stderr)
    return replace(findings, damaged=tuple(damaged))


def _find(
    loaded: Sequence[Run], grids: list[AblationGrid], base: ExperimentConfig, changes: Mapping[str, Any] | None,
    tables: Sequence[str],
) -> Findings:  # fmt: skip
    scale = base.scale
    by_name = {grid.name: measure(select(grid, scale, loaded, changes)) for grid in grids}
    systems = by_name[TABLE1.name]
    measured = [table for table in by_name.values() if table is not systems]
    selected = [table.runs for table in measured]
    runs = _distinct(
        run for table in (*selected, systems.runs) for seeds in (table.rows | table.shared).values() for run in seeds.values()
    )
    _require_sheets(runs)
    gates = gate_values(runs)
    scores: dict[str, Any] = {name: table.scores for name, table in by_name.items()}
    rows = system_rows(systems.runs, loaded)
    if not systems.runs.world.scores_itself:
        read, scores[TABLE1.name] = compared(rows, systems.runs.grid)
        grids = [read if grid.name == TABLE1.name else grid for grid in grids]
    results = judge_all(get_claims(tables), grids, scale, scores, gates, changes)
    claims = [_with_system(_with_compute(result, measured), rows) for result in results]
    levels = find_levels(selected, loaded)
    return Findings(scale, measured, systems, rows, runs, gates, claims, levels, left_out(base), changes=changes or {})


def _require_sheets(runs: Sequence[Run]) -> None:
    """Raises DamagedRun where pictures of a run cannot be read."""
    for run in runs:
        if GENEVAL.evaluation in run.results:
            try:
                read_sheets(run.dir, run.items(GENEVAL.evaluation), GENEVAL.tasks)
            except UserError as error:
                raise DamagedRun(run.dir.path, str(error)) from None


def judge_all(
    claims: Iterable[Claim], grids: Iterable[AblationGrid], scale: str, scores: TableScores, gates: Gates,
    changes: Mapping[str, Any] | None = None,
) -> list[ClaimResult]:  # fmt: skip
    """The verdict on every claim, decided together; a claim whose table has no grid is one that the suite cannot test.

    Args:
        grids: those measured.
    """
    known = GRIDS | {grid.name: grid for grid in grids}
    return decide_together([judge(claim, scale, scores.get(claim.table, {}), gates, changes, known) for claim in claims])


def _distinct(runs: Iterable[Run]) -> list[Run]:
    return list({run.dir.path: run for run in runs}.values())


def _with_system(result: ClaimResult, rows: Sequence[SystemRow]) -> ClaimResult:
    """The result with what its interval covers, and who judged, where a system without training seeds is one of its rows."""
    if result.claim.table != TABLE1.name or result.measured is None:
        return result
    judge = other_judge(rows) if DPG.key in result.claim.columns else ""
    return replace(result, remark=COVERED + (f" Judged by {judge}, not by mPLUG as in the paper." if judge else ""))


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
