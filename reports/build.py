"""`rf-repro report`: from run folders to one Markdown file, one HTML page, CSV tables, PNG figures and claims.json."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ablations.claims import CLAIMS
from ablations.grid import Column
from ablations.registry import GRIDS
from reports import plots
from reports.collect import GridRuns, RowScores, Run, collect_scores, load_runs, machine, require_one_protocol, select
from reports.contact_sheet import show_images
from reports.curves import AXES, EqualBudget, curve, equal_budget
from reports.document import Document, Figure, Section
from reports.gates import measure_gates
from reports.html import render_html
from reports.markdown import render_markdown
from reports.provenance import runs_table, sources_table
from reports.side_by_side import choose_pairs, examples_table, side_by_side_figure
from reports.tables import Table, budget_table, coverage, gates_table, results_table, scale_label, tasks_table
from reports.verdicts import ClaimResult, judge
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, write_json, write_text


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
    loaded = load_runs(runs)
    claims: list[ClaimResult] = []
    sections: list[Section] = []
    labels: dict[str, None] = {}
    for grid in GRIDS.values():
        selected = select(grid, scale, loaded)
        labels[scale_label(scale, selected.configs[grid.base])] = None
        results, parts = _grid_sections(selected)
        claims += results
        sections += parts
    label = ", ".join(labels)
    document = Document(
        title="Representation Forcing, reproduced",
        introduction=(
            f"Claims of arXiv 2605.31604, tested at {label}. The paper trains a 30-billion-parameter model on web-scale data; "
            "here the data, the prompts and the model are others, so what is tested is the order of the variants under equal "
            "conditions. The published values stand beside the measured ones for orientation only."
        ),
        claims=tuple(claims),
        sections=tuple(sections),
    )
    _write(document, Path(out))
    return Path(out) / "report.html"


def _grid_sections(runs: GridRuns) -> tuple[list[ClaimResult], list[Section]]:
    """Verdicts and sections of one table."""
    grid = runs.grid
    scores = {column.key: collect_scores(runs, column) for column in grid.columns}
    seeds = sorted({seed for rows in scores.values() for row in rows.values() for seed in row.results})
    gates = measure_gates(runs)
    claims: list[ClaimResult] = []
    by_column: list[Section] = []
    pictures: list[Section] = []
    all_curves: dict[str, plots.Curves] = {}
    for column in grid.columns:
        rows = scores[column.key]
        curves = {key: {seed: curve(run, column) for seed, run in row.items()} for key, row in runs.rows.items()}
        points = [point for row in curves.values() for line in row.values() for point in line]
        on_the_way = {point.protocol: point.record for point in points if point.record.stem != column.evaluation}
        require_one_protocol(grid, f"the curves of {column.label}", on_the_way)
        all_curves[column.key] = curves
        finished = {key: {seed: curves[key][seed] for seed in row.results} for key, row in rows.items() if row.results}
        budgets = [budget for axis in AXES if (budget := equal_budget(finished, axis)) is not None]
        mine = [judge(claim, runs.scale, column, rows) for claim in CLAIMS
                if (claim.table, claim.column) == (grid.name, column.key)]  # fmt: skip
        claims += [_with_compute(runs, result, budgets) for result in mine]
        by_column.append(_tasks_section(runs, column, rows, mine))
        by_column.append(_curves_section(runs, column, rows, curves, budgets))
        for result in mine:
            pictures += _side_by_side_sections(runs, column, rows, result)
    sections = [
        Section(grid.title, coverage(runs, seeds), (results_table(runs, scores),)),
        *by_column,
        Section("Gates", tables=(gates_table(runs, gates),)),
        *pictures,
        Section("Provenance", tables=(runs_table(runs), sources_table(runs, scores, all_curves, gates)), folded=True),
    ]
    return claims, sections


def _with_compute(runs: GridRuns, result: ClaimResult, budgets: Sequence[EqualBudget]) -> ClaimResult:
    """The result with the two variants' scores at equal training compute, where there are any."""
    for budget in budgets:
        if budget.axis == "seconds" and result.difference is not None:
            sides = (result.claim.better, result.claim.worse)
            texts = " against ".join(f"{runs.grid.variant(key).label} {budget.scores[key]:.3f}" for key in sides)
            return replace(result, remark=f"At equal training compute ({budget.budget:,.0f} s): {texts}.")
    return result


def _tasks_section(runs: GridRuns, column: Column, scores: Mapping[str, RowScores], claims: Sequence[ClaimResult]) -> Section:
    caption = "Share of images judged correct, with 95% intervals. Overall is the unweighted mean of the tasks."
    png = plots.tasks_figure(runs.grid, column, scores)
    return Section(
        "By task",
        tables=(tasks_table(runs, column, scores, claims),),
        figures=_figures(runs, [("tasks", f"{column.label} by task", caption, png)]),
    )


def _curves_section(
    runs: GridRuns, column: Column, scores: Mapping[str, RowScores], curves: plots.Curves, budgets: Sequence[EqualBudget]
) -> Section:
    """Learning curves, the scores at equal steps and equal compute, losses and codebook."""
    sizes = sorted({point.n for seeds in curves.values() for line in seeds.values() for point in line})
    lines = "Thin lines are training seeds, thick lines their mean. " if any(len(row) > 1 for row in runs.rows.values()) else ""
    points = f"Points rest on {' or '.join(f'{n:,}' for n in sizes)} images; the last one is the final score." if sizes else ""
    figures = [
        (
            "curves",
            f"{column.label} against steps and against compute",
            lines + points,
            plots.curves_figure(runs.grid, column, curves),
        ),
        ("losses", "Losses", lines + "Terms of the objective, unweighted, as logged.", plots.losses_figure(runs)),
        ("codebook", "Codebook", lines + "Share of codes in use and perplexity of their use.", plots.codebook_figure(runs)),
    ]
    tables: tuple[Table, ...] = ()
    text = "Equal budgets are not compared: there are no two rows whose learning curves reach a common budget."
    if budgets:
        tables, text = (budget_table(runs, column, budgets, _budget_notes(runs, scores)),), ""
    return Section("Equal steps and equal compute", text, tables, _figures(runs, figures))


def _budget_notes(runs: GridRuns, scores: Mapping[str, RowScores]) -> list[str]:
    """What a step costs each row, and whether the machines allow the comparison."""
    used = {key: [runs.rows[key][seed] for seed in score.results] for key, score in scores.items() if score.results}
    costs = {key: sum(run.record.compute_seconds for run in row) / max(1, sum(run.record.steps for run in row))
             for key, row in used.items()}  # fmt: skip
    least = min(costs.values())
    notes = []
    if least > 0:
        listed = ", ".join(f"{scores[key].variant.label} {cost:.3f} s ({cost / least:.2f}x)" for key, cost in costs.items())
        notes.append(f"Training compute a step: {listed}. Stages that all rows share are not counted.")
        notes.append(
            "At equal compute a row whose runs go on beyond the budget is read off its curve on the way, before its learning "
            "rate has decayed; a run with its schedule cut to that budget was not made."
        )
    devices = sorted({machine(attempt) for row in used.values() for run in row for attempt in run.record.attempts})
    if len(devices) > 1:
        listed = "; ".join(devices)
        notes.append(f"The runs were trained on different devices ({listed}), so their compute is not comparable.")
    return notes


def _side_by_side_sections(runs: GridRuns, column: Column, scores: Mapping[str, RowScores], result: ClaimResult) -> list[Section]:
    """The claim's two variants on the same prompts: pictures, then the verdicts on them."""
    sides = (scores[result.claim.worse], scores[result.claim.better])
    labels = (sides[0].variant.label, sides[1].variant.label)
    heading = f"The same prompts: {labels[0]} and {labels[1]}"
    seeds = sorted(set(sides[0].results) & set(sides[1].results))
    if not seeds:
        return [Section(heading, f"Nothing to show. Not run: {result.reason}.")]
    first, second = (show_images(_run(runs, side, seeds[0]).dir, side.items[seeds[0]], column.tasks) for side in sides)
    pairs = choose_pairs(column, sides, (first, second), seeds[0])
    if not pairs:
        return [Section(heading, f"Nothing to show: the runs of seed {seeds[0]} have no samples and no contact sheet in common.")]
    png = side_by_side_figure(pairs, labels)
    caption = f"Training seed {seeds[0]}; prompts evenly spread over each task, not chosen by look. ✓ and ✗: verdicts."
    name = f"{result.claim.id.replace('_', '-')}-side-by-side"
    table = examples_table(f"{runs.grid.name}-{name}", pairs, labels)
    return [
        Section(heading, figures=_figures(runs, [(name, heading, caption, png)])),
        Section(f"Verdicts on the pictured images: {labels[0]} and {labels[1]}", tables=(table,), folded=True),
    ]


def _run(runs: GridRuns, side: RowScores, seed: int) -> Run:
    return runs.rows[side.variant.key][seed]


def _figures(runs: GridRuns, drawn: Sequence[tuple[str, str, str, bytes | None]]) -> tuple[Figure, ...]:
    """(name, title, caption, PNG) of what could be drawn, as figures of this table and scale."""
    label = scale_label(runs.scale, runs.configs[runs.grid.base])
    return tuple(
        Figure(f"{runs.grid.name}-{name}", f"{title}, {label}", caption, png) for name, title, caption, png in drawn if png
    )


def _write(document: Document, out: Path) -> None:
    """Writes every file whole, the page last, and removes tables and figures that an earlier report left behind."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    written = set()
    for table in document.tables:
        if table.records:
            path = out / "tables" / f"{table.name}.csv"
            write_text(path, pd.DataFrame(list(table.records)).to_csv(index=False))
            written.add(path)
    for figure in document.figures:
        path = out / "figures" / f"{figure.name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(figure.png)
        written.add(path)
    for grid in GRIDS:
        for stale in {*out.glob(f"tables/{grid}*.csv"), *out.glob(f"figures/{grid}*.png")} - written:
            stale.unlink()
    write_json(out / "claims.json", [result.to_dict() for result in document.claims])
    write_text(out / "report.md", render_markdown(document))
    write_text(out / "report.html", render_html(document))
