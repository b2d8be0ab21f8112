"""The paper's own tables where ours has other columns, and Table 1 on a world of our own."""

from collections.abc import Sequence
from typing import Any

from ablations.grid import GENEVAL, AblationGrid
from ablations.questions import MIRRORS
from reports.collect import GridRuns
from reports.dpg_column import DPG
from reports.measured import MeasuredTable
from reports.paper_values import PAPER_TABLES, PaperTable, paper_table
from reports.systems import OURS
from reports.tables import Table, numbers, scale_label, show


def published_table(grid: AblationGrid) -> Table | None:
    """What the paper prints for a grid that is measured on other columns; None when its values stand beside ours already, or
    there are none."""
    paper = paper_table(grid.name)
    if not paper.values or any(column.key in paper.columns for column in grid.columns):
        return None
    ours = {column.key for column in grid.columns}
    mirrored = ", ".join(f"{kind} beside {benchmark}" for kind, benchmark in MIRRORS.items() if kind in ours)
    return Table(
        name=f"{grid.name}-paper",
        title=f"The paper's {grid.title}: other benchmarks, not comparable with the numbers above",
        caption=f"{paper.source}. Published values, as fractions; nothing here was measured.",
        header=("Variant", *paper.columns.values()),
        rows=tuple(
            (label, *(_printed(paper, paper.values[key].get(column)) for column in paper.columns))
            for key, label in paper.labels.items()
        ),
        records=tuple(
            {"row": key, "column": column, "paper": value} for key, row in paper.values.items() for column, value in row.items()
        ),
        notes=(f"Only the order of rows can be compared. Question types stand for benchmarks so: {mirrored}.",),
    )


def table1(table: MeasuredTable, ablations: Sequence[GridRuns]) -> Table:
    """The paper's comparison of systems, with this suite's own model below it, task by task, on a world of its own.

    Args:
        table: of `ablations.table1`.
        ablations: the tables of variants. A run that stands in one of them bears the name that it has there.
    """
    paper = PAPER_TABLES["table1"]
    ours = next((runs.grid.variant(OURS) for runs in ablations if runs.names.get(OURS) == table.runs.names[OURS]),
                table.runs.grid.variant(OURS)).label  # fmt: skip
    label = scale_label(table.runs.scale, table.runs.configs[table.runs.grid.base])
    score, cells, records = table.scores[GENEVAL.key][OURS], list[str](), list[dict[str, Any]]()
    for column in paper.columns:
        if column == DPG.key:
            measured, reason = None, "no DPG evaluation on procedural scenes"
        else:
            tasks = (column,) if column in GENEVAL.tasks else GENEVAL.tasks
            measured, reason = (score.interval(tasks) if score.results else None), score.reason
        cells.append(show(measured, digits=2) if measured else f"not run: {reason}")
        published = paper.values["rf_pixel"].get(column)
        records.append({"row": OURS, "column": column, **numbers(measured), "paper": published, "notes": reason})
    rows = [
        (name, *(_printed(paper, paper.values[key].get(column)) for column in paper.columns))
        for key, name in paper.labels.items()
    ]
    return Table(
        name="table1",
        title=f"Table 1, published, and {ours} at {label}",
        caption="GenEval by task, overall, and DPG. All rows but the last are the paper's, at 1024 px, as fractions.",
        header=("Model", *paper.columns.values()),
        rows=(*rows, (f"Measured here: {ours}", *cells)),
        records=tuple(records),
        notes=(
            f"Paper: {paper.source}.",
            "The last row is no competitor of the others: it draws coloured shapes, they draw photographs.",
            *(f"{ours}: {note}." for note in score.notes),
        ),
    )


def _printed(paper: PaperTable, value: float | None) -> str:
    return "–" if value is None else f"{value:.{paper.digits}f}"
