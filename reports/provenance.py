"""Where every number comes from: the runs behind a table and the record file behind each printed figure."""

import json
from collections.abc import Mapping, Sequence

from ablations.grid import config_difference
from reports.collect import GridRuns, RowScores, Run, machine
from reports.curves import Point
from reports.gates import GateResult
from reports.tables import Table


def runs_table(runs: GridRuns) -> Table:
    """One row a run: identity, diff against the table's base, code, machine and cost."""
    base = runs.configs[runs.grid.base]
    rows, records = [], []
    for key, seeds in (runs.rows | runs.shared).items():
        for seed, run in seeds.items():
            record = run.record
            difference = config_difference(base, run.dir.config()) if key in runs.rows else {}
            diff = "; ".join(f"{path}: {json.dumps(old)} → {json.dumps(new)}" for path, (old, new) in difference.items())
            devices = sorted({machine(attempt) for attempt in record.attempts})
            wall = [attempt.seconds for attempt in record.attempts]
            entry = {
                "Run": str(run.dir.path),
                "Seed": str(seed),
                "Config": record.config_hash[:12],
                "Diff against base": diff or ("the base" if key in runs.rows else "shared stage"),
                "Started from": ", ".join(record.started_from) or "nothing",
                "Status": record.status,
                "Steps": f"{record.steps:,}",
                "Tokens": f"{record.tokens:,}",
                "Training s": f"{record.compute_seconds:,.0f}",
                "Wall s": f"{sum(s for s in wall if s is not None):,.0f}" + (" + a killed attempt" if None in wall else ""),
                "Device": "; ".join(devices) or "unknown",
                "Code": _code(run),
                "Data": (record.data_fingerprint or "unknown")[:12],
                "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()) or "unknown",
            }
            rows.append(tuple(entry.values()))
            records.append(entry)
    header = ("Run", "Seed", "Config", "Diff against base", "Started from", "Status", "Steps", "Tokens", "Training s", "Wall s",
              "Device", "Code", "Data", "Versions")  # fmt: skip
    return Table(
        name=f"{runs.grid.name}-runs",
        title="Runs",
        caption="Training s is CPU time on a CPU and wall-clock time on an accelerator; Wall s covers the whole process.",
        header=header,
        rows=tuple(rows),
        records=tuple(records),
        notes=tuple(f"Left out: {why}." for _, why in runs.ignored),
    )


def sources_table(
    runs: GridRuns,
    scores: Mapping[str, Mapping[str, RowScores]],
    curves: Mapping[str, Mapping[str, Mapping[int, Sequence[Point]]]],
    gates: Sequence[GateResult],
) -> Table:
    """One row a record that numbers were read from: where they are printed, the file, its protocol and evaluator.

    Args:
        scores: column key -> row key -> scores.
        curves: column key -> row key -> seed -> learning curve.
    """
    found: list[tuple[str, str, str, str, str]] = []
    for column in runs.grid.columns:
        for key, score in scores[column.key].items():
            for seed, result in score.results.items():
                path = runs.rows[key][seed].dir.evals / f"{column.evaluation}.json"
                where = f"{runs.grid.title}, {score.variant.label}, {column.label}, tasks, claims"
                found.append((where, str(seed), str(path), result.protocol, _pairs(result.evaluator)))
                found.append((f"its intervals and examples ({score.variant.label})", str(seed),
                              str(path.with_name(f"{column.evaluation}.items.jsonl")), result.protocol, ""))  # fmt: skip
    for gate in gates:
        path = gate.run.dir.evals / f"{gate.gate.evaluation}.json"
        found.append((gate.gate.label, str(gate.run.record.seed), str(path), gate.result.protocol, _pairs(gate.result.evaluator)))
    for lines in curves.values():
        for key, seeds in lines.items():
            for seed, line in seeds.items():
                on_the_way = [point for point in line if "-step" in point.record.stem]
                if on_the_way:
                    span = str(on_the_way[0].record) + (f" to {on_the_way[-1].record.name}" if len(on_the_way) > 1 else "")
                    found.append((f"Curves, {runs.grid.variant(key).label}", str(seed), span, on_the_way[0].protocol, ""))
    for key, row in runs.rows.items():
        for seed, run in row.items():
            if run.dir.metrics_path.exists():
                where = f"Losses, codebook and compute, {runs.grid.variant(key).label}"
                found.append((where, str(seed), str(run.dir.metrics_path), "", ""))
    header = ("Number", "Seed", "Record", "Protocol", "Evaluator")
    return Table(
        name=f"{runs.grid.name}-sources",
        title="The record behind each number",
        caption="Paths are as the runs folders were given.",
        header=header,
        rows=tuple(found),
        records=tuple(dict(zip(header, row, strict=True)) for row in found),
    )


def _code(run: Run) -> str:
    if run.record.revision is None:
        return "unknown"
    return run.record.revision[:12] + (f" + uncommitted {run.record.dirty[:12]}" if run.record.dirty else "")


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
