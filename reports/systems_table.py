"""Table 1 on photographs: each system's published values, and beside them those measured here, or why there are none."""

from collections.abc import Sequence
from typing import Any

from ablations.grid import GENEVAL
from reports.collect import looked_at
from reports.dpg_column import DPG, dpg_cell
from reports.paper_values import PAPER_TABLES
from reports.systems import SystemRow
from reports.tables import Footnotes, Table, numbers, scale_label, show

COVERED = "Intervals of other systems cover prompts: each has one set of weights and one set of images."


def systems_table(rows: Sequence[SystemRow]) -> Table:
    """GenEval by task and overall, and DPG, at the largest size that our own model draws.

    Raises:
        UserError: a record contradicts its own items, or seeds were measured in different ways.
    """
    first = rows[0]
    paper = PAPER_TABLES[first.runs.grid.name]
    marks, lines, notes, records = Footnotes(), list[tuple[str, ...]](), list[str](), list[dict[str, Any]]()
    for row in rows:
        score = row.geneval()
        cells = [row.variant.label]
        if score.results:
            notes += [f"{row.variant.label}: {note}." for note in looked_at(score.results.values())]
        for column in paper.columns:
            printed = paper.values[row.key].get(column)
            if column == DPG.key and not row.is_rewritten:
                dpg = dpg_cell(row.runs, row.variant.key, printed, row.dpg())
                text = dpg.text
                records += [{"row": row.key, **record} for record in dpg.records]
                notes += [f"{row.variant.label}: {note}." for note in dpg.notes]
            elif column == DPG.key:
                text = "–"
            else:
                tasks = (column,) if column in GENEVAL.tasks else GENEVAL.tasks
                measured = score.interval(tasks) if score.results else None
                text = show(measured, digits=2) + marks.mark(score.notes) if measured else f"not run: {score.reason}"
                records.append({"row": row.key, "column": column, **numbers(measured), "paper": printed,
                                "notes": "; ".join(score.notes) or score.reason})  # fmt: skip
            cells += [text, "–" if printed is None else f"{printed:.{paper.digits}f}"]
        lines.append(tuple(cells))
    label = scale_label(first.runs.scale, next(iter(first.runs.configs.values())))
    return Table(
        name=first.runs.grid.name,
        title=f"{first.runs.grid.title} at {label}",
        caption=f"GenEval by task, overall, and DPG, as fractions, at the largest size: {first.largest} px here, 1024 px in the "
        "paper. † prompts rewritten by a language model (here bagel-long). Means with 95% intervals.",
        header=("Model", *(text for name in paper.columns.values() for text in (name, f"Paper, {name}"))),
        rows=tuple(lines),
        records=tuple(records),
        notes=(*marks.lines(), f"Paper: {paper.source}.", COVERED,
               "RF-Pixel is this project's own model; its size and data differ from the paper's.", *dict.fromkeys(notes)),
    )  # fmt: skip
