"""`rf-repro report`: from run folders to Markdown, LaTeX, CSV, Parquet, PNG figures, claims.json and one HTML page."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ablations.claims import CLAIMS, Difference
from ablations.registry import GRIDS
from reports.browser import make_browser
from reports.collect import Run, load_runs, select
from reports.dependence import TableScores, dependence_section
from reports.document import Document, Figure, Section
from reports.gates import gates_table, measure_gates
from reports.grid_sections import grid_sections, samples_section
from reports.levels import find_levels
from reports.measured import MeasuredTable, measure
from reports.paper_tables import table1
from reports.provenance import runs_table, sources_table
from reports.tables import scale_label
from reports.training import RunRow, all_rows, codebook_figure, codebook_size_figure, codebook_table, codebook_use, losses_figure
from reports.verdicts import ClaimResult, gate_values, judge
from reports.write import write_report


def build_report(runs: Sequence[Path], out: Path, scale: str = "tiny") -> Path:
    """Builds the report of every table at one scale from records alone.

    Args:
        runs: folders of run directories, trained here or shipped; none, or empty ones, give a report of "not run".
        out: folder for report.md, report.html, tables/, figures/ and claims.json. Each file is replaced whole.
        scale: the scale whose runs are read.

    Returns:
        The path of report.html.

    Raises:
        UserError: a runs folder does not exist, a record is broken, or one table would mix protocols.
    """
    return write_report(make_document(runs, scale), out)


def make_document(runs: Sequence[Path], scale: str) -> Document:
    """What `build_report` writes."""
    loaded = load_runs(runs)
    tables = [measure(select(grid, scale, loaded)) for grid in GRIDS.values()]
    selected = [table.runs for table in tables]
    levels = find_levels(selected, loaded)
    known = _distinct(run for table in selected for seeds in (table.rows | table.shared).values() for run in seeds.values())
    gates = gate_values(known)

    def judge_all(scores: TableScores) -> list[ClaimResult]:
        return [judge(claim, scale, scores.get(claim.table, {}), gates) for claim in CLAIMS]

    claims = [_with_compute(result, tables) for result in judge_all({table.runs.grid.name: table.scores for table in tables})]
    label = ", ".join(dict.fromkeys(scale_label(scale, table.configs[table.grid.base]) for table in selected))
    rows = all_rows(selected)
    gate_results = measure_gates(known)
    beyond = [run for level in levels for run in level.runs]
    sections = [
        *_table_sections(tables, claims),
        dependence_section(selected, claims, levels, judge_all, label),
        *samples_section(tables),
        *_training_sections(rows, label),
        Section("gates", "Gates", (gates_table(gate_results, label),)),
        Section("provenance", "Provenance", (runs_table(selected, beyond), sources_table(tables, gate_results)), folded=True),
    ]
    return Document(
        title="Representation Forcing, reproduced",
        introduction=(
            f"Claims of arXiv 2605.31604, tested at {label}. The paper trains a 30-billion-parameter model on web-scale data; "
            "here the data, the prompts and the model are others, so what is tested is the order of the variants under equal "
            "conditions. The published values stand beside the measured ones for orientation only."
        ),
        claims=tuple(claims),
        sections=tuple(sections),
        browser=make_browser(rows, label),
    )


def _distinct(runs: Iterable[Run]) -> list[Run]:
    return list({run.dir.path: run for run in runs}.values())


def _table_sections(tables: Sequence[MeasuredTable], claims: Sequence[ClaimResult]) -> list[Section]:
    """Table 1, then the grids in the paper's order."""
    sections = [Section("table1", "Table 1: systems", (table1(tables),))]
    done: list[MeasuredTable] = []
    for table in sorted(tables, key=lambda table: table.runs.grid.title):
        mine = [result.claim.comparison for result in claims if result.claim.table == table.runs.grid.name]
        pairs = [(comparison.better, comparison.worse) for comparison in mine if isinstance(comparison, Difference)]
        sections += grid_sections(table, done, pairs)
        done.append(table)
    return sections


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


def _training_sections(rows: Sequence[RunRow], label: str) -> list[Section]:
    """Losses of all runs, and their codebooks."""
    lines = "Thin lines are training seeds, thick lines their mean. " if any(len(row.runs) > 1 for row in rows) else ""
    sections = []
    losses = losses_figure(rows)
    if losses:
        text = lines + "Terms of the objective, unweighted, as logged."
        sections.append(Section("losses", "Losses", (Figure("losses", f"Losses, {label}", text, losses),)))
    uses = codebook_use(rows)
    if uses:
        drawn: list[tuple[str, str, str, bytes | None]] = [
            ("codebook-size", "Codebook use by size", "A dot a run, at the end of training; the line is the mean of a size.",
             codebook_size_figure(uses)),
            ("codebook", "Codebook use on the way", lines + "Share of codes in use and perplexity of their use.",
             codebook_figure(rows)),
        ]  # fmt: skip
        figures = [Figure(name, f"{title}, {label}", caption, png) for name, title, caption, png in drawn if png]
        sections.append(Section("codebook", "Codebook", (codebook_table(uses, label), *figures)))
    return sections
