"""Where every number comes from: the runs behind the tables and the record file behind each printed figure."""

import json
from collections.abc import Iterable, Sequence

from ablations.grid import config_difference
from reports.collect import GridRuns, machine
from reports.gates import GateResult
from reports.measured import MeasuredTable
from reports.runs import DamagedRun, Run
from reports.systems import SystemRow
from reports.tables import Table
from rf_repro.config.overrides import config_of
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import RESULTS_VERSION


def runs_table(tables: Sequence[GridRuns], beyond: Iterable[Run], damaged: Sequence[DamagedRun] = ()) -> Table:
    """One row a run, whichever tables it stands in: identity, diff against the scale, code, machine and cost.

    Args:
        beyond: further runs that the report shows, as in harder worlds.
        damaged: runs that it leaves out, which notes name.
    """
    rows, records = [], []
    used_in: dict[str, list[str]] = {}
    found: dict[str, Run] = {}
    for table in tables:
        for seeds in (table.rows | table.shared).values():
            for run in seeds.values():
                found[run.name] = run
                used_in.setdefault(run.name, []).append(table.grid.title.removeprefix("Table "))
    stages = {run.name for table in tables for seeds in table.shared.values() for run in seeds.values()}
    stages -= {run.name for table in tables for seeds in table.rows.values() for run in seeds.values()}  # and Table 1's start
    found |= {run.name: run for run in beyond}
    for run in found.values():
        record = run.record
        stage = run.name in stages
        diff = "" if stage else _difference(run)
        wall = [attempt.seconds for attempt in run.attempts]
        entry = {
            "Run": str(run.dir.path),
            "Tables": ", ".join(used_in.get(run.name, ["levels"])),
            "Seed": str(record.seed),
            "Config": record.config_hash[:12],
            "Diff against the scale": diff or ("shared stage" if stage else "none"),
            "Started from": ", ".join(record.started_from) or "nothing",
            "Status": record.status,
            "Steps": f"{record.steps:,}",
            "Tokens": f"{record.tokens:,}",
            "Training s": f"{record.compute_seconds:,.0f}",
            "Wall s": f"{sum(s for s in wall if s is not None):,.0f}" + (" + a killed attempt" if None in wall else ""),
            "Device": "; ".join(sorted({machine(attempt) for attempt in run.attempts})) or "unknown",
            "Code": _code(run),
            "Data": (record.data_fingerprint or "unknown")[:12],
            "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()) or "unknown",
        }
        rows.append(tuple(entry.values()))
        records.append(entry)
    header = ("Run", "Tables", "Seed", "Config", "Diff against the scale", "Started from", "Status", "Steps", "Tokens",
              "Training s", "Wall s", "Device", "Code", "Data", "Versions")  # fmt: skip
    shown = {run.dir.path for run in found.values()}
    left_out = dict.fromkeys(
        f"Left out: {other.path}: {other.why}." for table in tables for other in table.left_out if other.path not in shown
    )
    return Table(
        name="runs",
        title="Runs",
        caption="Training s is CPU time on a CPU and wall-clock time on an accelerator; Wall s is of all processes, "
        "those that sample and score among them.",
        header=header,
        rows=tuple(rows),
        records=tuple(records),
        notes=(*_mixed(found.values()), *(f"Left out: {one.path}: {one.why}." for one in damaged), *left_out),
        printed=False,
    )


def _mixed(runs: Iterable[Run]) -> list[str]:
    """A note where runs are of several revisions."""
    codes = len({_code(run) for run in runs})
    if codes < 2:
        return []
    return [f"These runs are of {codes} revisions of one results version ({RESULTS_VERSION}): they compute the same, and may "
            "round differently."]  # fmt: skip


def _difference(run: Run) -> str:
    """What of a run's config is not as its scale has it; of stages that it does not reach, that it ends before them."""
    config, base = config_of(run.dir).to_dict(), get_scale(run.record.scale).to_dict()
    names = [stage["name"] for stage in config["stages"]]
    ends = f"ends with {names[-1]}" if names[-1] != base["stages"][-1]["name"] else ""
    base["stages"] = [stage for stage in base["stages"] if stage["name"] in names]
    changed = config_difference(base, {**base, **config}).items()
    return "; ".join(filter(None, (ends, *(f"{path}: {json.dumps(old)} → {json.dumps(new)}" for path, (old, new) in changed))))


def sources_table(tables: Sequence[MeasuredTable], systems: Sequence[SystemRow], gates: Sequence[GateResult]) -> Table:
    """One row a record that numbers were read from: where they are printed, the file, its protocol and evaluator.

    Args:
        systems: rows of Table 1 that have records of their own.
    """
    printed_in: dict[tuple[str, ...], list[str]] = {}

    def found(where: str, *rest: str) -> None:
        places = printed_in.setdefault(rest, [])
        if where not in places:
            places.append(where)

    for table in tables:
        title, runs = table.runs.grid.title, table.runs
        for column in runs.grid.columns:
            for key, score in table.scores[column.key].items():
                for seed, result in score.results.items():
                    path = runs.rows[key][seed].dir.evals / f"{column.evaluation}.json"
                    found(f"{title}, tasks, claims", score.variant.label, str(seed), str(path), result.protocol,
                          _pairs(result.evaluator))  # fmt: skip
                    items = path.with_name(f"{column.evaluation}.items.jsonl")
                    found("intervals, examples", score.variant.label, str(seed), str(items), result.protocol, "")
            for key, lines in table.curves.get(column.key, {}).items():
                for seed, line in lines.items():
                    on_the_way = [point for point in line if "-step" in point.record.stem]
                    if on_the_way:
                        span = str(on_the_way[0].record) + (f" to {on_the_way[-1].record.name}" if len(on_the_way) > 1 else "")
                        found("curves", runs.grid.variant(key).label, str(seed), span, on_the_way[0].protocol, "")
        for key, row in runs.rows.items():
            for seed, run in row.items():
                if run.dir.metrics_path.exists():
                    found("losses, codebook, compute", runs.grid.variant(key).label, str(seed), str(run.dir.metrics_path), "", "")
    for system in systems:
        for run in system.measured:
            for name in (name for name in system.evaluations if name in run.results):
                result = run.results[name]
                found(f"{system.runs.grid.title}, claims", system.variant.label, str(run.record.seed),
                      str(run.dir.evals / f"{name}.json"), result.protocol, _pairs(result.evaluator))  # fmt: skip
    for gate in gates:
        path = gate.run.dir.evals / f"{gate.gate.evaluation}.json"
        found(gate.gate.label, gate.run.record.variant, str(gate.run.record.seed), str(path), gate.result.protocol,
              _pairs(gate.result.evaluator))  # fmt: skip
    header = ("Printed in", "Variant", "Seed", "Record", "Protocol", "Evaluator")
    rows = tuple(("; ".join(places), *rest) for rest, places in printed_in.items())
    return Table(
        name="sources",
        title="The record behind each number",
        caption="Paths are as the runs folders were given.",
        header=header,
        rows=rows,
        records=tuple(dict(zip(header, row, strict=True)) for row in rows),
        printed=False,
    )


def _code(run: Run) -> str:
    if run.record.revision is None:
        return "unknown"
    return run.record.revision[:12] + (f" + uncommitted {run.record.dirty[:12]}" if run.record.dirty else "")


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
