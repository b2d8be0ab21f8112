"""Table 1 on photographs: the scores of our own run and of other groups' systems, all at the largest size, and what its claims
compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ablations.grid import GENEVAL, AblationGrid, Column, Variant
from ablations.table1 import SYSTEMS
from reports.collect import GridRuns, RowScores, collect_scores
from reports.dpg_column import DPG, dpg_names
from reports.paper_values import PAPER_TABLES
from reports.runs import Run
from rf_repro.core.dpg_names import JUDGED
from rf_repro.core.geneval_names import REWRITTEN, geneval_name
from rf_repro.core.hashing import content_hash
from rf_repro.core.systems import system_config

OURS = "pixel_rf"  # the variant that stands for the paper's RF-Pixel
_MARKED = "_rewritten"  # ends the published table's keys of rows whose prompts a language model rewrote


@dataclass(frozen=True)
class SystemRow:
    """One row of the published table: whose images, for which prompts. `runs` are those of that system or of our own run.

    Attributes:
        key: of the published row: `bagel_rewritten`.
        variant: whose run it is, with the label as printed.
    """

    key: str
    variant: Variant
    runs: GridRuns

    @property
    def is_ours(self) -> bool:
        return self.variant.key == OURS

    @property
    def is_rewritten(self) -> bool:
        return self.key.endswith(_MARKED)

    @property
    def measured(self) -> list[Run]:
        """Its runs, by seed."""
        return list(self.runs.rows[self.variant.key].values())

    @property
    def evaluations(self) -> list[str]:
        """Names of its runs' results that the table shows or may show: GenEval's for its prompts, then DPG's."""
        named = [self.geneval_name, *([] if self.is_rewritten else dpg_names(self.runs, self.variant.key))]
        return [name for name in named if any(name in run.results for run in self.measured)]

    @property
    def geneval_name(self) -> str:
        return geneval_name(self.largest, self.largest, self.largest, REWRITTEN if self.is_rewritten else "official")

    @property
    def largest(self) -> int:
        """Pixels a side by which its records are named: those of our own model's largest image."""
        return int(self.runs.configs[self.variant.key]["model"]["max_image_size"])

    def geneval(self) -> RowScores:
        """Its GenEval scores, or why there are none."""
        return self._scores(GENEVAL, self.geneval_name, "the rewritten prompts" if self.is_rewritten else "GenEval's prompts")

    def dpg(self, evaluation: str | None = None) -> RowScores:
        """Its DPG scores: mPLUG's, or those of another evaluation."""
        if self.is_rewritten:
            return self._without("DPG-Bench has no rewritten prompts")
        return self._scores(DPG, evaluation or dpg_names(self.runs, self.variant.key)[0], "DPG-Bench's prompts")

    def _scores(self, column: Column, evaluation: str, prompts: str) -> RowScores:
        found = collect_scores(self.runs, replace(column, evaluation=evaluation), [self.variant.key])[self.variant.key]
        if self.is_ours or any(evaluation in run.results for run in self.measured):
            return replace(found, variant=self.variant)
        what = f" for {prompts}" if self.measured else ""
        return self._without(f"no images of {self.variant.label.rstrip('†')}{what}: name a folder in the evaluation plan")

    def _without(self, reason: str) -> RowScores:
        return RowScores(self.variant, {}, {}, (), reason)


def system_rows(table: GridRuns, runs: Sequence[Run]) -> list[SystemRow]:
    """The rows of the published table, in its order.

    Args:
        table: of `ablations.table1.TABLE1`, for our own rows.
        runs: all that were loaded, other systems' among them.
    """
    systems = {system.key: system for system in SYSTEMS}
    rows = []
    for key, label in PAPER_TABLES[table.grid.name].labels.items():
        own = key.removesuffix(_MARKED)
        if own not in systems:
            rows.append(SystemRow(key, replace(table.grid.variant(OURS), label=label), table))
            continue
        variant = Variant(own, label, {})
        alone = replace(table.grid, base=own, rows=(variant,))
        found = [run for run in runs if _is_of(run, own, table.scale)][:1]  # of several folders the one named first
        mine = replace(
            table, grid=alone, configs={own: table.configs[OURS]}, names={own: own}, rows={own: dict(enumerate(found))},
            shared={}, left_out=(),
        )  # fmt: skip
        rows.append(SystemRow(key, variant, mine))
    return rows


def _is_of(run: Run, key: str, scale: str) -> bool:
    record = run.record
    return (record.variant, record.scale, record.config_hash) == (key, scale, content_hash(system_config(key)))


def compared(rows: Sequence[SystemRow], grid: AblationGrid) -> tuple[AblationGrid, Mapping[str, Mapping[str, RowScores]]]:
    """What the claims about Table 1 are judged by: the table with its published rows, and column key -> row key -> scores.

    A system has one set of weights and one set of images: it stands beside each of our training seeds, so that differences
    cover prompts and, of our own run, the seeds.
    """
    read = replace(grid, base=rows[0].key, rows=tuple(replace(row.variant, key=row.key) for row in rows), columns=(GENEVAL, DPG))
    judge = _common_judge(rows)
    scores = {GENEVAL.key: {row.key: row.geneval() for row in rows}, DPG.key: {row.key: row.dpg(judge) for row in rows}}
    seeds = {(column, row.is_rewritten): tuple(found[row.key].results) for column, found in scores.items()
             for row in rows if row.is_ours}  # fmt: skip
    return read, {
        column: {
            row.key: found[row.key] if row.is_ours else _beside(found[row.key], seeds[column, row.is_rewritten]) for row in rows
        }
        for column, found in scores.items()
    }


def _beside(score: RowScores, seeds: Sequence[int]) -> RowScores:
    """The one record of a system for each of these seeds."""
    if not score.results or not seeds:
        return score
    (result,), (items,) = score.results.values(), score.items.values()
    return replace(score, results=dict.fromkeys(seeds, result), items=dict.fromkeys(seeds, items), is_fixed=True, known={})


def _common_judge(rows: Sequence[SystemRow]) -> str | None:
    """The DPG evaluation that our run and another system have both, mPLUG's before others; None where there is none."""
    plain = [row for row in rows if not row.is_rewritten]
    sides = [{name for row in plain if row.is_ours == ours for name in row.evaluations} for ours in (True, False)]
    names = dict.fromkeys(name for row in plain for name in dpg_names(row.runs, row.variant.key))
    return next((name for name in names if name in set.intersection(*sides)), None)


def other_judge(rows: Sequence[SystemRow]) -> str:
    """Who judged the DPG scores that are compared, where it was not mPLUG."""
    name = _common_judge(rows)
    if name is None or JUDGED not in name:
        return ""
    found = (run.results[name] for row in rows for run in row.measured if name in run.results)
    return next(found).evaluator["judge"]
