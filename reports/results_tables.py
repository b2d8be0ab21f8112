"""The paper's tables with measured numbers beside published ones, and one column taken apart by task."""

from collections.abc import Mapping, Sequence

from ablations.grid import Column
from reports.collect import GridRuns, RowScores, looked_at
from reports.equal_data import difference_notes
from reports.paper_values import paper_table
from reports.statistics import paired_difference, unique_prompts
from reports.tables import Footnotes, Table, numbers, scale_label, show

CLUSTERS = {  # what is drawn, and what intervals then cover
    "prompt": ("unique prompts within each task", "prompts"),
    "question_id": ("the questions of each type", "questions"),
    "cluster": ("the questions of each benchmark, those about one image or page together", "questions"),
}
GUESS = "Best guess without the image"
Scores = Mapping[str, Mapping[str, RowScores]]  # column key -> row key


def coverage(runs: GridRuns, seeds: Sequence[int]) -> str:
    """One paragraph: what the intervals over these training seeds cover and what they don't."""
    drawn, short = CLUSTERS[runs.grid.columns[0].cluster]
    how = f"Intervals are 95%, by Student's t, from the variance over {drawn}"
    if not seeds:
        return how + ", and over training seeds where there are several."
    if len(seeds) == 1:
        return f"{how}, from one training seed ({seeds[0]}): they do not cover training noise; run more seeds to see it."
    listed = ", ".join(map(str, seeds))
    text = f"{how} and over {len(seeds)} training seeds ({listed}): they cover {short} and training noise."
    starts = {tuple(run.record.started_from) for row in runs.rows.values() for seed, run in row.items() if seed in seeds}
    if len(starts) == 1 and (start := next(iter(starts))):
        text += f" All runs start from the same first stage ({', '.join(start)}), whose own variation is not covered."
    return text


def results_table(runs: GridRuns, scores: Scores) -> Table:
    """The paper's table as measured; a cell with nothing run gives the reason.

    A column that the paper has too is followed by the published value.
    """
    grid = runs.grid
    paper = paper_table(grid.name)
    alone = len(grid.columns) == 1
    notes, rows, records = Footnotes(), [], []
    in_paper = {column.key for column in grid.columns if column.key in paper.columns}
    for row in grid.rows:
        cells, total, seeds = [row.label], 0, set[int]()
        for column in grid.columns:
            score, published = scores[column.key][row.key], paper.values.get(row.key, {}).get(column.key)
            measured = score.interval(column.tasks) if score.results else None
            if measured:
                total, seeds = total + measured.n, seeds | set(measured.seeds)
                cells.append(show(measured, digits=3 if alone else 2) + notes.mark(score.notes))
            else:
                cells.append(f"not run: {score.reason}")
            if column.key in in_paper:
                cells.append("–" if published is None else f"{published:.{paper.digits}f}")
            records.append(
                {"row": row.key, "column": column.key, **numbers(measured), "paper": published,
                 "notes": "; ".join(score.notes) or score.reason}
            )  # fmt: skip
        rows.append((*cells, f"{total:,}", ", ".join(map(str, sorted(seeds))) or "none"))
    guesses = {column.key: _chance(scores[column.key], column) for column in grid.columns}
    if any(guess is not None for guess in guesses.values()):
        cells = [GUESS]
        for column in grid.columns:
            guess = guesses[column.key]
            cells += ["–" if guess is None else f"{guess:.2f}"] + ([""] if column.key in in_paper else [])
            records.append(
                {"row": "chance", "column": column.key, **numbers(None), "measured": guess, "paper": None, "notes": ""}
            )
        rows.append((*cells, "", ""))
    header = ["Variant"]
    for column in grid.columns:
        header += [f"{column.label}, mean [95%]" if alone else column.label]
        header += [f"Paper, {column.label}"] if column.key in in_paper else []
    header += ["Images" if grid.columns[0].cluster == "prompt" else "Questions", "Seeds"]
    beyond = [f"{paper.labels[key]} {value:.2f}" for key in paper.values if key not in {row.key for row in grid.rows}
              for column, value in paper.values[key].items() if column in in_paper]  # fmt: skip
    means = "" if alone else " Means with 95% intervals."
    return Table(
        name=grid.name,
        title=f"{grid.title} at {scale_label(runs.scale, runs.configs[grid.base])}",
        caption=grid.caption + (f" (paper, {grid.section})." if grid.section else ".") + means,
        header=tuple(header),
        rows=tuple(rows),
        records=tuple(records),
        notes=(
            *notes.lines(),
            f"Paper: {paper.source}." + (f" It also has rows outside this grid: {', '.join(beyond)}." if beyond else ""),
            *(_differences(runs, scores) if paper.values else ()),
            *difference_notes(runs),
        ),
    )


def _differences(runs: GridRuns, scores: Scores) -> list[str]:
    """Notes on what keeps measured values from being compared with published ones."""
    if runs.world.scores_itself:
        return ["The worlds differ in images, prompts, model and data, so compare the order of the rows with the paper's, not "
                "their values."]  # fmt: skip
    measured = (result for rows in scores.values() for row in rows.values() for result in row.results.values())
    return [
        *(f"Measured: {how}." for how in looked_at(measured)),
        "Model and data differ from the paper's, so compare the order of the rows before their values.",
    ]


def _chance(rows: Mapping[str, RowScores], column: Column) -> float | None:
    """The best score without looking that the column's records state, which depends on the questions alone."""
    stated = (result.metrics.get(f"chance_{column.metric}") for row in rows.values() for result in row.results.values())
    return next((value for value in stated if value is not None), None)


def tasks_table(runs: GridRuns, column: Column, rows_scores: Mapping[str, RowScores], pairs: Sequence[tuple[str, str]]) -> Table:
    """One column taken apart: a score per task and row, then the paired difference of each pair (better, worse) of rows."""
    rows, records = [], []
    for key, score in rows_scores.items():
        if not score.results:
            rows.append((score.variant.label, *["not run"] * len(column.tasks)))
            continue
        by_task = [score.interval((task,)) for task in column.tasks]
        rows.append((score.variant.label, *(show(part, digits=2) for part in by_task)))
        records += [{"row": key, "task": task, **numbers(part)} for task, part in zip(column.tasks, by_task, strict=True)]
    for better_key, worse_key in pairs:
        better, worse = rows_scores[better_key], rows_scores[worse_key]
        if set(better.results) & set(worse.results):
            parts = [paired_difference(better.items, worse.items, (task,)) for task in column.tasks]
            label = f"{better.variant.label} − {worse.variant.label}"
            rows.append((label, *(show(part, signed=True, digits=2) for part in parts)))
            records += [{"row": label, "task": task, **numbers(part)} for task, part in zip(column.tasks, parts, strict=True)]
    measured = [score for score in rows_scores.values() if score.results]
    if measured:
        counts = [max(unique_prompts(score.items, task) for score in measured) for task in column.tasks]
        rows.append(("Unique prompts", *map(str, counts)))
    return Table(
        name=f"{runs.grid.name}-tasks",
        title=f"{column.label} by task, {scale_label(runs.scale, runs.configs[runs.grid.base])}",
        caption="Share of images judged correct. Differences are paired: same drawn prompts and seeds on both sides.",
        header=("Variant", *(task.replace("_", " ") for task in column.tasks)),
        rows=tuple(rows),
        records=tuple(records),
        notes=("An interval over few unique prompts is rough: the prompt is what is drawn.",) if measured else (),
    )
