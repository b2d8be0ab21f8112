"""Tables ready to print: cells as text for readers, `records` as numbers for CSV, footnotes for what a number hides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablations.grid import Column
from reports.collect import GridRuns, RowScores
from reports.curves import EqualBudget
from reports.gates import GATES, Gate, GateResult
from reports.paper_values import PAPER_TABLES
from reports.statistics import RESAMPLES, Interval, interval, paired_difference, unique_prompts
from reports.verdicts import ClaimResult


@dataclass(frozen=True)
class Table:
    """`name` is the stem of its CSV file; `rows` hold text of `len(header)` cells; the first column names the row."""

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


@dataclass
class Footnotes:
    """Lettered notes in order of first mention; one text gets one letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, notes: Sequence[str]) -> str:
        """The marks to print after a number, e.g. ` (a, b)`; empty without notes."""
        for text in notes:
            if text not in self.texts:
                self.texts.append(text)
        letters = [chr(ord("a") + self.texts.index(text)) for text in notes]
        return f" ({', '.join(letters)})" if letters else ""

    def lines(self) -> tuple[str, ...]:
        return tuple(f"({chr(ord('a') + index)}) {text}." for index, text in enumerate(self.texts))


def show(score: Interval, signed: bool = False, digits: int = 3) -> str:
    """`0.731 [0.702, 0.758]`, with signs for a difference."""
    form = f"{'+' if signed else ''}.{digits}f"
    return f"{score.estimate:{form}} [{score.low:{form}}, {score.high:{form}}]"


def scale_label(scale: str, config: Mapping[str, Any]) -> str:
    """What a title says of the scale: `scale tiny (procedural scenes, 24 px)`."""
    if config["data"]["world"] == "scenes":
        return f"scale {scale} (procedural scenes, {config['data']['scenes']['image_size']} px)"
    return f"scale {scale} (image-text data, up to {max(stage['max_image_size'] for stage in config['stages'])} px)"


def coverage(runs: GridRuns, seeds: Sequence[int]) -> str:
    """One paragraph: what the intervals over these training seeds cover and what they don't."""
    how = f"Intervals are 95% percentile bootstraps ({RESAMPLES:,} resamples) over unique prompts within each task"
    if not seeds:
        return how + ", and over training seeds where there are several."
    if len(seeds) == 1:
        return f"{how}, from one training seed ({seeds[0]}): they do not cover training noise; run more seeds to see it."
    listed = ", ".join(map(str, seeds))
    text = f"{how}, then over {len(seeds)} training seeds ({listed}): they cover prompts and training noise, the latter with"
    text += f" {len(seeds) - 1}/{len(seeds)} of its variance, as a bootstrap of {len(seeds)} seeds must."
    starts = {tuple(run.record.started_from) for row in runs.rows.values() for seed, run in row.items() if seed in seeds}
    if len(starts) == 1 and (start := next(iter(starts))):
        text += f" All runs start from the same first stage ({', '.join(start)}), whose own variation is not covered."
    return text


def results_table(runs: GridRuns, scores: Mapping[str, Mapping[str, RowScores]]) -> Table:
    """The paper's table, measured and published. `scores[column key][row key]`; a cell with nothing run gives the reason."""
    grid, paper = runs.grid, PAPER_TABLES[runs.grid.name]
    notes, rows, records = Footnotes(), [], []
    for row in grid.rows:
        cells = [row.label]
        for column in grid.columns:
            score, published = scores[column.key][row.key], paper.values[row.key][column.key]
            measured = interval(score.items, column.tasks) if score.results else None
            if measured:
                seeds = ", ".join(map(str, measured.seeds))
                cells += [show(measured) + notes.mark(score.notes), f"{measured.n:,}", seeds, f"{published:.2f}"]
            else:
                cells += [f"not run: {score.reason}", "0", "none", f"{published:.2f}"]
            records.append(
                {"row": row.key, "column": column.key, **_numbers(measured), "paper": published,
                 "notes": "; ".join(score.notes) or score.reason}
            )  # fmt: skip
        rows.append(tuple(cells))
    beyond = [f"{paper.labels[key]} {value:.2f}" for key in paper.values if key not in {row.key for row in grid.rows}
              for value in paper.values[key].values()]  # fmt: skip
    return Table(
        name=grid.name,
        title=f"{grid.title} at {scale_label(runs.scale, runs.configs[grid.base])}",
        caption=f"{grid.caption} (paper, {grid.section}).",
        header=("Variant", *(name for column in grid.columns
                             for name in (f"{column.label}, mean [95%]", "Images", "Seeds", f"Paper, {column.label}"))),
        rows=tuple(rows),
        records=tuple(records),
        notes=(
            *notes.lines(),
            f"Paper: {paper.source}." + (f" It also has rows outside this grid: {', '.join(beyond)}." if beyond else ""),
            "The worlds differ in images, prompts, model and data, so compare the order of the rows with the paper's, not "
            "their values.",
        ),
    )  # fmt: skip


def tasks_table(runs: GridRuns, column: Column, scores: Mapping[str, RowScores], claims: Sequence[ClaimResult]) -> Table:
    """One column taken apart: a score per task and row, then the paired difference of each claim on this column."""
    rows, records = [], []
    for key, score in scores.items():
        if not score.results:
            rows.append((score.variant.label, *["not run"] * len(column.tasks)))
            continue
        by_task = [interval(score.items, (task,)) for task in column.tasks]
        rows.append((score.variant.label, *(show(part, digits=2) for part in by_task)))
        records += [{"row": key, "task": task, **_numbers(part)} for task, part in zip(column.tasks, by_task, strict=True)]
    for result in claims:
        if result.difference:
            better, worse = scores[result.claim.better], scores[result.claim.worse]
            parts = [paired_difference(better.items, worse.items, (task,)) for task in column.tasks]
            label = f"{better.variant.label} − {worse.variant.label}"
            rows.append((label, *(show(part, signed=True, digits=2) for part in parts)))
            records += [{"row": label, "task": task, **_numbers(part)} for task, part in zip(column.tasks, parts, strict=True)]
    measured = [score for score in scores.values() if score.results]
    if measured:
        counts = [max(unique_prompts(score.items, task) for score in measured) for task in column.tasks]
        rows.append(("Unique prompts", *map(str, counts)))
    return Table(
        name=f"{runs.grid.name}-tasks",
        title=f"{column.label} by task, {scale_label(runs.scale, runs.configs[runs.grid.base])}",
        caption="Share of images judged correct. Differences are paired: same drawn prompts and seeds on both sides.",
        header=("", *(task.replace("_", " ") for task in column.tasks)),
        rows=tuple(rows),
        records=tuple(records),
        notes=("An interval over few unique prompts is rough: the prompt is what is drawn.",) if measured else (),
    )


def budget_table(runs: GridRuns, column: Column, budgets: Sequence[EqualBudget], notes: Sequence[str]) -> Table:
    """The score of each row at equal steps and at equal training compute."""
    header = {"step": "At {:,.0f} steps", "seconds": "At {:,.0f} s of training compute"}
    return Table(
        name=f"{runs.grid.name}-budget",
        title=f"{column.label} at equal steps and at equal compute, {scale_label(runs.scale, runs.configs[runs.grid.base])}",
        caption="The largest budget that every run reached, read off the curves by linear interpolation; mean over seeds.",
        header=("Variant", *(header[budget.axis].format(budget.budget) for budget in budgets)),
        rows=tuple(
            (row.label, *(f"{budget.scores[row.key]:.3f}" for budget in budgets))
            for row in runs.grid.rows
            if row.key in budgets[0].scores
        ),
        records=tuple(
            {"row": key, "axis": budget.axis, "budget": budget.budget, "score": score}
            for budget in budgets
            for key, score in budget.scores.items()
        ),
        notes=tuple(notes),
    )


def gates_table(runs: GridRuns, results: Sequence[GateResult]) -> Table:
    """What must hold before the table means anything."""
    groups: dict[tuple[str, str], list[GateResult]] = {}
    for item in results:
        groups.setdefault((item.gate.label, item.run.record.variant), []).append(item)
    rows = [
        (
            label,
            f"{variant}, seed {', '.join(str(item.run.record.seed) for item in items)}",
            ", ".join(f"not measured: {item.reason}" if item.value is None else f"{item.value:.3f}" for item in items),
            ", ".join(f"{item.result.n:,}" for item in items),
            _needed(items[0].gate),
            _status(items),
        )
        for (label, variant), items in groups.items()
    ]
    seen = {item.gate.label for item in results}
    rows += [(gate.label, "none", "not run", "0", _needed(gate), "") for gate in GATES if gate.label not in seen]
    return Table(
        name=f"{runs.grid.name}-gates",
        title=f"Gates at {scale_label(runs.scale, runs.configs[runs.grid.base])}",
        caption="Conditions on the evaluator and the codes without which a row of the table would say little.",
        header=("Gate", "Run", "Measured", "Items", "Needed", "Status"),
        rows=tuple(rows),
        records=tuple(
            {"gate": item.gate.label, "run": item.run.name, "evaluation": item.gate.evaluation, "metric": item.gate.metric,
             "value": item.value, "n": item.result.n, "minimum": item.gate.minimum, "passed": item.passed}
            for item in results
        ),
        notes=("The thresholds are this project's, set for scale tiny.",),
    )  # fmt: skip


def _needed(gate: Gate) -> str:
    return "for comparison" if gate.minimum is None else f"≥ {gate.minimum:.2f}"


def _status(items: Sequence[GateResult]) -> str:
    """`pass` when every run passed, `below` when one did not; empty with nothing to pass or a run not measured."""
    passed = [item.passed for item in items]
    return "below" if False in passed else "pass" if all(passed) else ""


def _numbers(score: Interval | None) -> dict[str, Any]:
    if score is None:
        return {"measured": None, "low": None, "high": None, "n": 0, "seeds": ""}
    seeds = " ".join(map(str, score.seeds))
    return {"measured": score.estimate, "low": score.low, "high": score.high, "n": score.n, "seeds": seeds}
