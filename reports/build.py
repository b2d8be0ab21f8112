"""`rf-repro report`: from run folders to Markdown, LaTeX, CSV, Parquet, PNG figures, claims.json and one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.claims import Difference
from ablations.registry import GRIDS
from reports.browser import make_browser
from reports.collect import GridRuns
from reports.dependence import dependence_section
from reports.document import Document, Figure, Section
from reports.figures import Colors, variant_colors
from reports.findings import Findings, find
from reports.gates import gates_table, measure_gates
from reports.grid_sections import grid_sections, samples_section
from reports.judged import judged_section
from reports.measured import MeasuredTable
from reports.paper_tables import table1
from reports.provenance import runs_table, sources_table
from reports.systems_table import systems_table
from reports.training import RunRow, all_rows, codebook_figure, codebook_size_figure, codebook_table, codebook_use, losses_figure
from reports.write import write_report


def build_report(
    runs: Sequence[Path], out: Path, scale: str = "tiny", changes: Mapping[str, Any] | None = None, tables: Sequence[str] = ()
) -> Path:
    """Builds the report of every table at one scale from records alone.

    Args:
        runs: folders of run directories, trained here or shipped; none, or empty ones, give a report of "not run".
        out: folder for report.md, report.html, claims.json, tables/ and figures/. Each file is replaced whole.
        scale: the scale whose runs are read.
        changes: dotted path -> value, as the runs were trained with.
        tables: names of tables to show beside all of ours: `my_grid.py:GRID`.

    Returns:
        The path of report.html.

    Raises:
        UserError: a runs folder does not exist, all runs are damaged, one table would mix protocols, or a name means no table.
    """
    return write_report(make_document(find(runs, scale, changes, tables)), out)


def make_document(findings: Findings) -> Document:
    """The report, laid out: claims, tables in the paper's order, what they depend on, runs, gates, provenance."""
    rows, gates = all_rows([*findings.selected, findings.systems.runs]), measure_gates(findings.runs)
    colors = variant_colors([*(row.key for table in findings.selected for row in table.grid.rows), *(row.key for row in rows)])
    systems = [] if findings.systems.runs.world.scores_itself else findings.system_rows
    beyond = [run for level in findings.levels for run in (*level.runs, *level.components)]
    return Document(
        title="Representation Forcing, reproduced",
        introduction=_introduction(findings),
        claims=tuple(findings.claims),
        sections=(
            *_table_sections(findings, colors),
            *judged_section(rows, findings.label),
            dependence_section(findings),
            *samples_section(findings.tables),
            *_training_sections(rows, findings.label, colors),
            Section("gates", "Gates", (gates_table(gates, findings.label, findings.selected[0].world),)),
            Section("provenance", "Provenance",
                    (runs_table(_shown(findings), beyond, findings.damaged),
                     sources_table(findings.tables, systems, gates)), folded=True),
        ),
        browser=make_browser(rows, findings.label),
    )  # fmt: skip


def _introduction(findings: Findings) -> str:
    tested = (
        f"Claims of arXiv 2605.31604, tested at {findings.label}. The paper trains a 30-billion-parameter model on web-scale "
    )
    if findings.selected[0].world.scores_itself:
        return (
            f"{tested}data; here the data, the prompts and the model are others, so what is tested is the order of the variants "
            "under equal conditions. The published values stand beside the measured ones for orientation only."
        )
    return (
        f"{tested}data that is not public; what differs here, data and model foremost, is in the section on provenance, with the "
        "prompts and the detector behind every score. What is tested is the order of the variants under equal conditions."
    )


def _table_sections(findings: Findings, colors: Colors) -> list[Section]:
    """Table 1, then the grids in the paper's order, then those of the user's."""
    scores_itself = findings.systems.runs.world.scores_itself
    first = table1(findings.systems, findings.selected) if scores_itself else systems_table(findings.system_rows)
    sections = [Section("table1", "Table 1: systems", (first,))]
    done: list[MeasuredTable] = []
    for table in sorted(findings.tables, key=lambda table: (table.runs.grid.name not in GRIDS, table.runs.grid.title)):
        mine = [result.claim.comparison for result in findings.claims if result.claim.table == table.runs.grid.name]
        pairs = [(comparison.better, comparison.worse) for comparison in mine if isinstance(comparison, Difference)]
        sections += grid_sections(table, done, pairs, colors)
        done.append(table)
    for name, why in findings.left_out.items():
        sections.append(Section(name, f"{GRIDS[name].title}: {GRIDS[name].caption}", (f"Left out. {why}.",)))
    return sections


def _shown(findings: Findings) -> list[GridRuns]:
    """The tables whose runs are listed; Table 1 where it has runs that no other one has."""
    known = {run.name for table in findings.selected for seeds in table.rows.values() for run in seeds.values()}
    own = {run.name for seeds in findings.systems.runs.rows.values() for run in seeds.values()}
    return [*findings.selected, *([findings.systems.runs] if own - known else [])]


def _training_sections(rows: Sequence[RunRow], label: str, colors: Colors) -> list[Section]:
    """Losses of all runs, and their codebooks."""
    lines = "Thin lines are training seeds, thick lines their mean. " if any(len(row.runs) > 1 for row in rows) else ""
    sections = []
    losses = losses_figure(rows, colors)
    if losses:
        text = lines + "Terms of the objective, unweighted, as logged."
        sections.append(Section("losses", "Losses", (Figure("losses", f"Losses, {label}", text, losses),)))
    uses = codebook_use(rows)
    if uses:
        drawn: list[tuple[str, str, str, bytes | None]] = [
            ("codebook-size", "Codebook use by size", "A dot a run, at the end of training; the line is the mean of a size.",
             codebook_size_figure(uses, colors)),
            ("codebook", "Codebook use on the way", lines + "Share of codes in use and perplexity of their use.",
             codebook_figure(rows, colors)),
        ]  # fmt: skip
        figures = [Figure(name, f"{title}, {label}", caption, png) for name, title, caption, png in drawn if png]
        sections.append(Section("codebook", "Codebook", (codebook_table(uses, label), *figures)))
    return sections
