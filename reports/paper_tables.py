"""The paper's own tables where ours has other columns, and Table 1, which compares systems."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ablations.grid import GENEVAL, AblationGrid
from ablations.questions import MIRRORS
from reports.collect import GridRuns, RowScores, collect_scores, looked_at
from reports.dpg_column import DpgCell, dpg_cell
from reports.measured import MeasuredTable
from reports.paper_values import PAPER_TABLES, PaperTable, paper_table
from reports.tables import Table, numbers, scale_label, show
from rf_repro.core.geneval_names import REWRITTEN, geneval_name

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


def table1(table: MeasuredTable, ablations: Sequence[GridRuns]) -> Table:
    """The paper's comparison of systems, with this suite's own model below it, task by task: on its own world, or on photographs
    at the largest size it draws, with the official and with rewritten prompts.

    Args:
        table: of `ablations.table1`.
        ablations: the tables of variants. A run that stands in one of them bears the name that it has there.
    """
    paper = PAPER_TABLES["table1"]
    ours = next((runs.grid.variant(OURS) for runs in ablations if runs.names.get(OURS) == table.runs.names[OURS]),
                table.runs.grid.variant(OURS)).label  # fmt: skip
    scenes = table.runs.world.scores_itself
    label = scale_label(table.runs.scale, table.runs.configs[table.runs.grid.base])
    rows: list[tuple[str, ...]] = [
        (name, *(_printed(paper, paper.values[key].get(column)) for column in paper.columns))
        for key, name in paper.labels.items()
    ]
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    for key, mark, score in _own_rows(table):
        cells = []
        for column in paper.columns:
            value = paper.values[key].get(column)
            if column == "dpg":
                dpg = _dpg(table, mark, value)
                cells.append(dpg.text)
                records += [{"row": OURS + mark, **record} for record in dpg.records]
                notes += [f"{ours}{mark}: {note}." for note in dpg.notes]
                continue
            measured = score.interval((column,) if column in GENEVAL.tasks else GENEVAL.tasks) if score.results else None
            cells.append(show(measured, digits=2) if measured else f"not run: {score.reason}")
            records.append({"row": OURS + mark, "column": column, **numbers(measured), "paper": value, "notes": score.reason})
        rows.append((f"Measured here: {ours}{mark}", *cells))
        stated = score.notes if scenes else (*score.notes, *looked_at(score.results.values()))
        notes += [f"{ours}{mark}: {note}." for note in stated]
    comparison = "The last row is no competitor of the others: it draws coloured shapes, they draw photographs."
    if not scenes:
        comparison = (
            f"The last rows are of {label}, at the largest size; models and data differ. † rewritten prompts (bagel-long)."
        )
    return Table(
        name="table1",
        title=f"Table 1, published, and {ours} at {label}",
        caption="GenEval by task, overall, and DPG. All rows but the last"
        f"{'' if scenes else ' two'} are the paper's, at 1024 px, as fractions.",
        header=("Model", *paper.columns.values()),
        rows=tuple(rows),
        records=tuple(records),
        notes=(f"Paper: {paper.source}.", comparison, *notes),
    )


def _dpg(table: MeasuredTable, mark: str, published: float | None) -> DpgCell:
    """Of a row that is measured here."""
    if not table.runs.world.scores_itself and not mark:
        return dpg_cell(table, OURS, published)
    reason = "no DPG evaluation on procedural scenes" if not mark else "DPG-Bench has no rewritten prompts"
    record = {"column": "dpg", **numbers(None), "paper": published, "notes": reason}
    return DpgCell("–" if mark else f"not run: {reason}", (record,), ())


def _own_rows(table: MeasuredTable) -> list[tuple[str, str, RowScores]]:
    """(the paper's row, a mark behind the name, scores) of each row that is measured here."""
    if table.runs.world.scores_itself:
        return [("rf_pixel", "", table.scores[GENEVAL.key][OURS])]
    largest = table.runs.configs[OURS]["model"]["max_image_size"]
    found = []
    for key, mark, prompt_set in (("rf_pixel", "", "official"), ("rf_pixel_rewritten", "†", REWRITTEN)):
        column = replace(GENEVAL, evaluation=geneval_name(largest, largest, largest, prompt_set))
        found.append((key, mark, collect_scores(table.runs, column, [OURS])[OURS]))
    return found


def _printed(paper: PaperTable, value: float | None) -> str:
    return "–" if value is None else f"{value:.{paper.digits}f}"
