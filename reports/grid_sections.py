"""The section of one table: its numbers, their parts by task, bars, learning curves, equal budgets, and pictures."""

from collections.abc import Sequence

from ablations.grid import GENEVAL, Column
from reports import plots
from reports.budget import budget_table
from reports.contact_sheet import Sheet, crossed_out, read_sheets
from reports.document import Figure, Section
from reports.failures import failures_table
from reports.figures import Colors
from reports.measured import MeasuredTable
from reports.paper_tables import published_table
from reports.results_tables import coverage, results_table, tasks_table
from reports.side_by_side import choose_cases, examples_table, samples_figure, side_by_side_figure
from reports.tables import Table, scale_label

Pairs = Sequence[tuple[str, str]]
SAMPLES_OF = "pixel_rf"  # the variant that is the paper's own model: its samples stand for the paper's Figure 2

HOW = "Training seed {}; prompts evenly spread over each task, not chosen by look. ✓ and ✗: the evaluator's verdicts."


def grid_sections(table: MeasuredTable, earlier: Sequence[MeasuredTable], pairs: Pairs, colors: Colors) -> list[Section]:
    """The table's section, and a folded one with the verdicts on the pictured images.

    Args:
        earlier: tables printed before; where they show all the runs of this one, its parts are not printed again.
        pairs: (better, worse) rows whose difference by task is of interest.
        colors: of `variant_colors`.
    """
    runs, grid = table.runs, table.runs.grid
    blocks: list[str | Table | Figure] = [coverage(runs, table.seeds), results_table(runs, table.scores)]
    beside = published_table(grid)
    if beside is not None:
        blocks.append(beside)
    folded: list[Section] = []
    on_images = [column for column in grid.columns if column.evaluation == GENEVAL.evaluation]
    for column in on_images:
        known = _shown_before(table, column, earlier)
        if known is not None:
            blocks.append(f"All runs of this table are also those of {known.runs.grid.title}: their tasks, curves and images "
                          "are printed there.")  # fmt: skip
            continue
        blocks += _parts(table, column, pairs, colors)
        pictures, verdicts = _pictures(table, column)
        blocks += pictures
        failures = failures_table(runs)
        blocks += [failures] if failures else []
        folded += verdicts
    others = [column for column in grid.columns if column not in on_images]
    if others:
        groups = [(column.label.split(": ")[-1], column, column.tasks) for column in others]
        png = plots.bars_figure(grid, "share of answers correct", groups, table.scores, colors)
        title = "Questions by type" if runs.world.scores_itself else "Benchmarks"
        blocks += _figures(table, [("types", title, "Share of answers correct, with 95% intervals.", png)])
        on_the_way = {column.label.split(": ")[-1]: table.curves[column.key] for column in others if column.key in table.curves}
        if on_the_way:
            png = plots.question_curves_figure(grid, on_the_way, colors)
            caption = "Share of answers correct against steps. Thin lines are training seeds, thick lines their mean."
            blocks += _figures(table, [("types-curves", "Questions by type while training", caption, png)])
    return [Section(grid.name, f"{grid.title}: {grid.caption}", tuple(blocks)), *folded]


def _shown_before(table: MeasuredTable, column: Column, earlier: Sequence[MeasuredTable]) -> MeasuredTable | None:
    mine = table.measured_runs(column.key)
    return next(
        (other for other in earlier if mine and column.key in other.scores and mine <= other.measured_runs(column.key)), None
    )


def _parts(table: MeasuredTable, column: Column, pairs: Pairs, colors: Colors) -> list[str | Table | Figure]:
    """By task, against steps and compute, and at equal budgets."""
    runs, rows, curves = table.runs, table.scores[column.key], table.curves[column.key]
    groups = [(task.replace("_", " "), column, (task,)) for task in column.tasks] + [("overall", column, column.tasks)]
    caption = "Share of images judged correct, with 95% intervals. Overall is the unweighted mean of the tasks."
    bars = plots.bars_figure(runs.grid, f"{column.label} (share correct)", groups, table.scores, colors)
    sizes = sorted({point.n for seeds in curves.values() for line in seeds.values() for point in line})
    several = any(len(row) > 1 for row in runs.rows.values())
    lines = "Thin lines are training seeds, thick lines their mean. " if several else ""
    points = f"Points rest on {' or '.join(f'{n:,}' for n in sizes)} images; the last one is the final score." if sizes else ""
    drawn = plots.curves_figure(runs.grid, column, curves, colors)
    budgets = table.budgets[column.key]
    return [
        tasks_table(runs, column, rows, pairs),
        *_figures(table, [("tasks", f"{column.label} by task", caption, bars)]),
        *_figures(table, [("curves", f"{column.label} against steps and against compute", lines + points, drawn)]),
        budget_table(runs, column, budgets, rows)
        if budgets
        else "Equal budgets are not compared: there are no two rows whose learning curves reach a common budget.",
    ]


def _pictures(table: MeasuredTable, column: Column) -> tuple[list[Figure], list[Section]]:
    """The rows that have pictures of a common seed on the same prompts, and one variant's samples."""
    rows, grid = table.scores[column.key], table.runs.grid
    seeds = [set(row.results) for row in rows.values() if row.results]
    common = set.intersection(*seeds) if seeds else set()
    if not common:
        return [], []
    seed = min(common)
    sheets: dict[str, Sheet] = {}
    for key, row in rows.items():
        if seed in row.results:
            sheet = read_sheets(table.runs.rows[key][seed].dir, row.items[seed], column.tasks).get("contact_sheet.png")
            if sheet is not None:
                sheets[key] = sheet
    figures, folded = [], []
    labels = [rows[key].variant.label for key in sheets]
    cases = choose_cases(column, [rows[key].items[seed] for key in sheets], list(sheets.values())) if len(sheets) > 1 else []
    if cases:
        heading = f"The same prompts: {', '.join(labels)}"
        caption = HOW.format(seed) + " As the paper's Figure 4." + crossed_out(sheets.values())
        drawn = [("side-by-side", heading, caption, side_by_side_figure(cases, labels))]
        figures += _figures(table, drawn, pictures=True)
        name = f"{grid.name}-side-by-side"
        folded.append(Section(name + "-verdicts", f"{grid.title}: verdicts on the pictured images",
                              (examples_table(name, cases, labels),), folded=True))  # fmt: skip
    return figures, folded


def samples_section(tables: Sequence[MeasuredTable]) -> list[Section]:
    """Samples of the paper's own model, its lowest seed, once; nothing where there are none."""
    for table in tables:
        for column in table.budgets:
            row = table.scores[column].get(SAMPLES_OF)
            if row is None or not row.results:
                continue
            seed = min(row.results)
            sheet = read_sheets(table.runs.rows[SAMPLES_OF][seed].dir, row.items[seed], GENEVAL.tasks).get("contact_sheet.png")
            if sheet is not None:
                caption = HOW.format(seed) + " As the paper's Figure 2." + crossed_out([sheet])
                png = samples_figure(sheet, GENEVAL.tasks)
                heading = f"Samples of {row.variant.label}"
                return [Section("samples", heading, tuple(_figures(table, [("samples", heading, caption, png)], pictures=True)))]
    return []


def _figures(table: MeasuredTable, drawn: Sequence[tuple[str, str, str, bytes | None]], pictures: bool = False) -> list[Figure]:
    """(name, title, caption, PNG) of what could be drawn, as figures of this table and scale."""
    label = scale_label(table.runs.scale, table.runs.configs[table.runs.grid.base])
    return [Figure(f"{table.runs.grid.name}-{name}", f"{title}, {label}", caption, png, pictures)
            for name, title, caption, png in drawn if png]  # fmt: skip
