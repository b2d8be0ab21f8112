"""Results that are in none of the paper's tables: images judged by a vision-language model, question by question."""

from collections.abc import Mapping, Sequence

from reports.document import Section
from reports.tables import Footnotes, Table
from reports.training import RunRow
from rf_repro.core.records import EvalResult

# Benchmark -> where its record keeps what the table's columns show; "": it has no such number.
COLUMNS: Mapping[str, tuple[str, str, str]] = {
    "geneval2": ("soft_tifa_am", "soft_tifa_gm", ""),
    "geneval-vlm": ("overall_am", "overall_gm", "overall_hard"),
}


def judged_section(rows: Sequence[RunRow], label: str) -> list[Section]:
    """The section of these benchmarks; none where no run has a result of any."""
    found = [
        (row, seed, result)
        for row in rows
        for seed, run in row.runs.items()
        for _, result in sorted(run.results.items())
        if result.benchmark in COLUMNS
    ]
    return [Section("judged", "Other evaluators", (_table(found, label),))] if found else []


def _table(found: Sequence[tuple[RunRow, int, EvalResult]], label: str) -> Table:
    notes, lines, records = Footnotes(), [], []
    for row, seed, result in found:
        judge = result.evaluator.get("judge", "an unnamed judge")
        said = [f"{result.protocol}, judge {judge} ({result.evaluator.get('judge_revision', 'unknown revision')})"]
        if result.n < result.expected_n:
            said.append(f"{result.n:,} of {result.expected_n:,} images scored")
        name = f"geneval-vlm({judge})" if result.benchmark == "geneval-vlm" else f"GenEval 2, {judge}"
        cells = [_cell(result, metric) for metric in COLUMNS[result.benchmark]]
        lines.append((row.label, str(seed), name + notes.mark(said), *cells, f"{result.n:,}"))
        records += [
            {"row": row.key, "seed": seed, "benchmark": result.benchmark, "judge": judge, "protocol": result.protocol,
             "metric": metric, "measured": value, "n": result.n, "notes": result.missing.get(metric, "")}
            for metric, value in result.metrics.items()
        ]  # fmt: skip
    return Table(
        name="judged",
        title=f"Images judged by vision-language models, {label}",
        caption="Soft-TIFA: mean probability of the right answers to the questions about an image, arithmetic (AM) and geometric "
        "(GM). Verdicts: share of images whose questions all have the right likeliest answer. Means with 95% intervals over "
        "prompts.",
        header=("Variant", "Seed", "Benchmark", "AM", "GM", "Verdicts", "Images"),
        rows=tuple(lines),
        records=tuple(records),
        notes=(
            *notes.lines(),
            "A score is as good as its judge: compare rows of one benchmark, judge and protocol alone. geneval-vlm asks about "
            "GenEval's prompts and is not GenEval. Scores by task, skill and atomicity are in the CSV file.",
        ),
    )


def _cell(result: EvalResult, metric: str) -> str:
    if not metric:
        return "–"
    value, low, high = (result.metrics.get(f"{metric}{part}") for part in ("", "_low", "_high"))
    if value is None:
        return f"not measured: {result.missing.get(metric, 'the record gives no reason')}"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
