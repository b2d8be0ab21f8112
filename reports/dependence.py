"""How each verdict depends on training length and on difficulty, as far as either was measured.

Training length: a claim is judged again on every point of the learning curves that all its rows have, with the same
statistics as on the final scores. Difficulty: it is judged on runs of the same variants in other worlds (`reports.levels`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablations.grid import GENEVAL
from reports.collect import GridRuns, collect_scores
from reports.document import Figure, Section
from reports.figures import legend_above, make_axes, to_png
from reports.findings import Findings
from reports.levels import Level
from reports.measured import TableScores
from reports.tables import Table
from reports.verdicts import ClaimResult

COLORS = {  # by how a verdict begins
    "reproduced": "#1a7f37", "not reproduced": "#b42318", "inconclusive": "#9a6700", "agrees": "#57a773", "disagrees": "#d98880",
}  # fmt: skip
PANELS = 3  # a row of the figure
LEAST = 0.05  # an axis reaches at least so far on both sides of zero, so that nothing looks like much


def dependence_section(findings: Findings) -> Section:
    """The section over every claim on image scores."""
    tables, final, scale_label, judge = findings.selected, findings.claims, findings.label, findings.judge_all
    by_step = {step: _tested(judge(_scores_at(tables, step))) for step in _steps(tables)}
    heading = "How verdicts depend on training length and difficulty"
    blocks: list[str | Table | Figure] = []
    if any(by_step.values()):
        tested = [result for result in final if any(result.claim.id in found for found in by_step.values())]
        blocks += [_steps_table(tested, by_step, scale_label), *_steps_figure(tested, by_step, scale_label)]
    else:
        blocks.append("Training length: no claim has learning curves of all its rows with per-image outcomes.")
    if findings.levels:
        at_levels = {level.label: _tested(judge(_scores_of(level), level)) for level in findings.levels}
        blocks.append(_levels_table(final, at_levels, scale_label))
    else:
        blocks.append(
            f"Difficulty: no runs of these variants in other worlds were found; only the world of {scale_label} was measured."
        )
    return Section("dependence", heading, tuple(blocks))


def _steps(tables: Sequence[GridRuns]) -> list[int]:
    """Steps at which any run was scored with its outcomes kept."""
    found = set()
    for table in tables:
        for seeds in table.rows.values():
            for run in seeds.values():
                found |= {
                    result.step
                    for name, result in run.results.items()
                    if name.startswith(f"{GENEVAL.evaluation}-step") and result.items is not None and result.step is not None
                }
    return sorted(found)


def _scores_at(tables: Sequence[GridRuns], step: int) -> TableScores:
    return {
        table.grid.name: {
            column.key: collect_scores(table, replace(column, evaluation=f"{column.evaluation}-step{step:06d}"))
            for column in table.grid.columns
        }
        for table in tables
    }


def _scores_of(level: Level) -> TableScores:
    return {
        table.grid.name: {column.key: collect_scores(table, column) for column in table.grid.columns} for table in level.tables
    }


def _tested(results: Sequence[ClaimResult]) -> dict[str, ClaimResult]:
    return {result.claim.id: result for result in results if result.estimate is not None}


def _cell(result: ClaimResult | None) -> str:
    if result is None or result.estimate is None:
        return "not run"
    interval = "" if result.low is None or result.high is None else f" [{result.low:+z.2f}, {result.high:+z.2f}]"
    return f"{result.estimate:+z.2f}{interval} {result.verdict}"


def _records(column: str, value: object, found: Mapping[str, ClaimResult]) -> list[dict[str, object]]:
    return [
        {"claim": name, column: value, "estimate": result.estimate, "low": result.low, "high": result.high,
         "verdict": result.verdict, "seeds": " ".join(map(str, result.seeds)), "n": result.n}
        for name, result in found.items()
    ]  # fmt: skip


def _steps_table(tested: Sequence[ClaimResult], by_step: Mapping[int, Mapping[str, ClaimResult]], scale_label: str) -> Table:
    final = {result.claim.id: result for result in tested}
    return Table(
        name="verdicts-by-step",
        title=f"Verdicts by training length, {scale_label}",
        caption="Each claim judged on the learning curves' images at a step, and on the final images, which are more.",
        header=("Claim", *(f"step {step:,}" for step in by_step), "final"),
        rows=tuple(
            (result.claim.statement, *(_cell(found.get(result.claim.id)) for found in by_step.values()), _cell(result))
            for result in tested
        ),
        records=(*(record for step, found in by_step.items() for record in _records("step", step, found)),
                 *_records("step", "final", final)),
        notes=("A run's learning rate decays only at its end: a point on the way is not the score of a shorter run.",),
    )  # fmt: skip


def _levels_table(final: Sequence[ClaimResult], at_levels: Mapping[str, Mapping[str, ClaimResult]], scale_label: str) -> Table:
    tested = [result for result in final if any(result.claim.id in found for found in at_levels.values())]
    return Table(
        name="verdicts-by-level",
        title=f"Verdicts by difficulty, {scale_label}",
        caption="Each claim judged on runs of the same variants that differ in their world alone.",
        header=("Claim", "the scale's own world", *at_levels),
        rows=tuple(
            (result.claim.statement, _cell(result), *(_cell(found.get(result.claim.id)) for found in at_levels.values()))
            for result in tested
        ),
        records=tuple(record for label, found in at_levels.items() for record in _records("level", label, found)),
    )


def _steps_figure(
    tested: Sequence[ClaimResult], by_step: Mapping[int, Mapping[str, ClaimResult]], scale_label: str
) -> list[Figure]:
    """A panel a claim: estimate and interval against steps, coloured by verdict."""
    columns = min(PANELS, len(tested))
    rows = math.ceil(len(tested) / columns)
    figure, axes = make_axes(columns, (9, 0.5 + 2.3 * rows), rows)
    for ax, result in zip(axes, tested, strict=False):  # the last row may have panels to spare
        points = [(step, found[result.claim.id]) for step, found in by_step.items() if result.claim.id in found]
        line = [point.estimate or 0.0 for _, point in points]  # all have one: `_tested`
        ax.plot([step for step, _ in points], line, color="#888888", linewidth=1, zorder=1)
        for verdict, color in COLORS.items():
            mine = [(step, point) for step, point in points if point.verdict.startswith(verdict)]
            if mine:
                steps, estimates = [step for step, _ in mine], [point.estimate or 0.0 for _, point in mine]
                ax.scatter(steps, estimates, color=color, label=verdict, zorder=3, s=22)
                for step, point in mine:
                    if point.low is not None and point.high is not None:
                        ax.plot([step, step], [point.low, point.high], color=color, linewidth=1.6, zorder=2)
        ax.axhline(0, color="#555555", linewidth=0.8, linestyle=":")
        ax.set_title(result.claim.statement, fontsize=9, wrap=True)
        low, high = ax.get_ylim()
        ax.set(xlim=(0, None), ylim=(min(low, -LEAST), max(high, LEAST)))
        ax.tick_params(labelsize=8)
    for ax in axes[len(tested) :]:
        ax.set_visible(False)
    legend_above(figure)
    caption = "Measured quantity of each claim with its 95% interval, over training steps. The dotted line is zero."
    return [Figure("verdicts-by-step", f"Verdicts by training length, {scale_label}", caption, to_png(figure))]
