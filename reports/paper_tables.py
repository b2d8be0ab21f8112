"""The paper's own tables where ours has other columns, and Table 1, which compares systems and has no grid here."""

from collections.abc import Sequence

from ablations.grid import GENEVAL, AblationGrid
from ablations.questions import MIRRORS
from reports.measured import MeasuredTable
from reports.paper_values import PAPER_TABLES, PaperTable, paper_table
from reports.tables import Table, numbers, scale_label, show

OURS = "pixel_rf"  # the variant that stands for the paper's RF-Pixel


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


def table1(tables: Sequence[MeasuredTable]) -> Table:
    """The paper's comparison of systems, with this suite's own model below it, on its own world and task by task."""
    paper = PAPER_TABLES["table1"]
    table = next(table for table in tables if OURS in {row.key for row in table.runs.grid.rows} and table.curves)
    score = table.scores[GENEVAL.key][OURS]
    label = scale_label(table.runs.scale, table.runs.configs[table.runs.grid.base])
    cells, records = [], []
    for column in paper.columns:
        tasks = (column,) if column in GENEVAL.tasks else GENEVAL.tasks if column == GENEVAL.key else ()
        measured = score.interval(tasks) if tasks and score.results else None
        reason = score.reason if tasks else "no DPG evaluation on procedural scenes"
        cells.append(show(measured, digits=2) if measured else f"not run: {reason}")
        notes = "" if measured else reason
        records.append(
            {"row": OURS, "column": column, **numbers(measured), "paper": paper.values["rf_pixel"][column], "notes": notes}
        )
    rows = [(name, *(_printed(paper, paper.values[key].get(column)) for column in paper.columns))
            for key, name in paper.labels.items()]  # fmt: skip
    return Table(
        name="table1",
        title=f"Table 1, published, and {score.variant.label} at {label}",
        caption="GenEval by task, overall, and DPG. All rows but the last are the paper's, at 1024 px, as fractions.",
        header=("Model", *paper.columns.values()),
        rows=(*rows, (f"Measured here: {score.variant.label}", *cells)),
        records=tuple(records),
        notes=(
            f"Paper: {paper.source}.",
            "The last row is no competitor of the others: it draws coloured shapes, they draw photographs.",
            *(f"Last row: {note}." for note in score.notes),
        ),
    )


def _printed(paper: PaperTable, value: float | None) -> str:
    return "–" if value is None else f"{value:.{paper.digits}f}"
