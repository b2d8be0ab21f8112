"""From run folders to the scores of one table: which runs belong, which are missing, and why."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.grid import GENEVAL, AblationGrid, Column, Variant
from reports.runs import DamagedRun, Run
from reports.statistics import Interval, interval
from rf_repro.config.overrides import apply_overrides, config_of
from rf_repro.config.prerequisites import run_name
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import RESULTS_VERSION
from rf_repro.core.action_dir import failed_shares
from rf_repro.core.dpg_names import is_dpg
from rf_repro.core.errors import UserError
from rf_repro.core.records import Attempt, EvalResult
from rf_repro.worlds import World, named_world

# What of an evaluator makes a difference; a batch size, say, makes none.
LOOKED = ("detector", "detector_revision", "color_classifier", "color_classifier_revision", "judge", "judge_revision")


@dataclass(frozen=True)
class LeftOut:
    """A run that a table does not count, and why."""

    variant: str
    path: Path
    why: str


@dataclass(frozen=True)
class GridRuns:
    """The runs of one table at one scale: `rows[variant][seed]`, and in `shared["name/hash12"][seed]` those they start from.

    `configs` are the rows' whole configs, JSON-ready, `names` what their runs are called; `changes` were made to the scale before
    every row.
    """

    grid: AblationGrid
    scale: str
    configs: dict[str, dict[str, Any]]
    rows: dict[str, dict[int, Run]]
    shared: dict[str, dict[int, Run]]
    left_out: tuple[LeftOut, ...]
    names: dict[str, str]
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def world(self) -> World:
        """The same for all rows."""
        return named_world(self.configs[self.grid.base]["data"]["world"])


@dataclass(frozen=True)
class RowScores:
    """One variant's evaluation in one column, by training seed, and what is missing from it."""

    variant: Variant
    results: dict[int, EvalResult]
    items: dict[int, list[dict[str, Any]]]
    notes: tuple[str, ...]  # what a reader must know beside the number
    reason: str  # why there is no number; empty when there is one
    cluster: str = "prompt"  # field of an item that intervals draw by
    is_fixed: bool = False  # whether one record, of a system without training seeds, stands for each of them
    known: dict[tuple[str, ...], Interval] = field(default_factory=dict, repr=False, compare=False)  # tasks -> interval

    def interval(self, tasks: Sequence[str]) -> Interval:
        """Its mean over `tasks` with a 95% interval; computed once."""
        key = tuple(tasks)
        if key not in self.known:
            self.known[key] = interval(self.items, tasks, self.cluster)
        return self.known[key]


def select(grid: AblationGrid, scale: str, runs: Sequence[Run], changes: Mapping[str, Any] | None = None) -> GridRuns:
    """The runs whose config hash is that of a row of `grid` at `scale`, or of a stage the rows share.

    `changes`: dotted path -> value, as the runs were trained with: data of one's own, weights in one's own folders.

    A run found in several folders (say, a local one and its shipped copy) counts once, from the folder named first.
    """
    configs = grid.configs(scale, changes)
    grid = grid.in_world(configs[grid.base].data.world)
    base = apply_overrides(get_scale(scale), changes or {})
    names = {row.key: run_name(row.run_key(base), configs[row.key]) for row in grid.rows}
    rows = {key: (names[key], config.result_hash()) for key, config in configs.items()}
    shared = list(grid.shared(scale, changes))
    chosen: dict[tuple[str, str], dict[int, Run]] = {identity: {} for identity in (*rows.values(), *shared)}
    hashes: dict[str, set[str]] = {}
    for name, digest in chosen:
        hashes.setdefault(name, set()).add(digest)
    left_out: list[LeftOut] = []
    for run in runs:
        record = run.record
        if record.scale != scale or record.variant not in hashes:
            continue
        if record.config_hash not in hashes[record.variant]:
            wanted = ", ".join(sorted(digest[:12] for digest in hashes[record.variant]))
            why = _of_before(run) or f"another config ({record.config_hash[:12]}; this table's is {wanted})"
            left_out.append(LeftOut(record.variant, run.dir.path, why))
        elif record.seed in chosen[record.variant, record.config_hash]:
            twin = chosen[record.variant, record.config_hash][record.seed].dir.path
            left_out.append(LeftOut(record.variant, run.dir.path, f"the same run as {twin}"))
        else:
            chosen[record.variant, record.config_hash][record.seed] = run
    return GridRuns(
        grid, scale,
        configs={key: config.to_dict() for key, config in configs.items()},
        rows={key: dict(sorted(chosen[identity].items())) for key, identity in rows.items()},
        shared={f"{name}/{digest[:12]}": dict(sorted(chosen[name, digest].items())) for name, digest in shared},
        left_out=tuple(left_out),
        names=names,
        changes=changes or {},
    )  # fmt: skip


def _of_before(run: Run) -> str:
    """Says so where the run's hash is that of its config in an earlier version of what runs compute."""
    try:
        config = config_of(run.dir)
    except UserError:  # a config of other fields is another config
        return ""
    hashes = {config.result_hash(version): version for version in range(1, RESULTS_VERSION)}
    version = hashes.get(run.record.config_hash)
    return "" if version is None else f"of results version {version}, this code's is {RESULTS_VERSION}; train it anew"


def collect_scores(runs: GridRuns, column: Column, only: Sequence[str] = ()) -> dict[str, RowScores]:
    """Each row's final results in one column; `only`: keys of the rows wanted, none: all.

    Raises:
        UserError: results of different protocols would share the column, or a record contradicts its own items.
    """
    expected_seeds = sorted({seed for row in runs.rows.values() for seed in row})
    wanted = [row for row in runs.grid.rows if not only or row.key in only]
    scores = {row.key: _row_scores(runs, row, column, expected_seeds) for row in wanted}
    by_protocol: dict[str, Path] = {}
    for key, row in scores.items():
        for seed, result in row.results.items():
            by_protocol.setdefault(measured_by(result), runs.rows[key][seed].dir.evals / f"{column.evaluation}.json")
    require_one_protocol(runs.grid, f"column {column.label}", by_protocol)
    return scores


def measured_by(result: EvalResult) -> str:
    """The protocol, and who looked: another detector, or other weights of it, is another measurement."""
    looked = [result.evaluator[name] for name in LOOKED if name in result.evaluator]
    return result.protocol + (f" by {', '.join(looked)}" if looked else "")


def without_size(protocol: str) -> str:
    """The protocol without the size of the images: each system draws its own."""
    return re.sub(r", \d+x\d+ px|(?<= a prompt) at \d+(x\d+)? px", "", protocol)


def require_one_protocol(grid: AblationGrid, what: str, by_protocol: Mapping[str, Path]) -> None:
    """Raises UserError when results of several protocols (protocol -> one record of it) would be compared."""
    if len(by_protocol) > 1:
        listed = "; ".join(f"{protocol} in {path}" for protocol, path in sorted(by_protocol.items()))
        raise UserError(f"{grid.name}: {what} would mix protocols ({listed}); evaluate all runs with one")


def looked_at(results: Iterable[EvalResult]) -> list[str]:
    """How results were measured, in short and each once; the revisions of models are in the section on provenance."""
    return list(dict.fromkeys(map(_how, results)))


def _how(result: EvalResult) -> str:
    seen = result.evaluator
    if "detector" in seen:
        return f"{result.protocol}, by {seen['detector']}, colours by {seen.get('color_classifier')}"
    return f"{result.protocol}; {seen['paper']}" if "paper" in seen else result.protocol


def machine(attempt: Attempt) -> str:
    """What an attempt computed on and in, e.g. `cpu, 1 thread, bf16`."""
    threads = f"{attempt.threads} thread{'' if attempt.threads == 1 else 's'}"
    return ", ".join(filter(None, (attempt.device, threads, attempt.arithmetic, "compiled" if attempt.compiled else None)))


def _row_scores(runs: GridRuns, row: Variant, column: Column, expected_seeds: Sequence[int]) -> RowScores:
    results: dict[int, EvalResult] = {}
    items: dict[int, list[dict[str, Any]]] = {}
    notes, absent = [], []
    for seed in expected_seeds:
        run = runs.rows[row.key].get(seed)
        result = run.results.get(column.evaluation) if run else None
        if run is None:
            absent.append(f"seed {seed} not run")
        elif result is None:
            absent.append(f"seed {seed} {_progress(run, column.evaluation, runs.world)}")
        elif result.metrics.get(column.metric) is None:
            why = result.missing.get(column.metric, "the record gives no reason")
            absent.append(f"seed {seed} has no {column.metric} score: {why}")
        else:
            results[seed], items[seed] = result, run.items(column.evaluation)
            _check_items(run, column, result, items[seed])
            if result.n < result.expected_n:
                what = "images" if column.cluster == "prompt" else "questions"
                notes.append(f"seed {seed}: {result.n:,} of {result.expected_n:,} {what} scored")
    if results:
        left_out = [f"{text}; not in the mean" for text in absent]
        first = runs.rows[row.key][min(results)]
        known = first.intervals.setdefault((column.evaluation, tuple(results)), {})
        return RowScores(row, results, items, (*notes, *left_out), "", column.cluster, known=known)
    if not runs.rows[row.key]:
        name = runs.names[row.key]
        others = sum(other.variant == name for other in runs.left_out)
        reason = f"no {name} run at scale {runs.scale}" + (f"; {others} with another config left out" if others else "")
    else:
        reason = "; ".join(absent)
    return RowScores(row, {}, {}, (), reason, column.cluster)


def _progress(run: Run, evaluation: str, world: World) -> str:
    """How far a run without its evaluation has come, and the error that stopped it."""
    if run.record.status == "done":
        if world.scores_itself:
            return "not evaluated"
        if stopped := _failure(run, evaluation):
            return f"not scored ({stopped})"
        if evaluation.startswith(GENEVAL.evaluation):
            return "not scored (`rf-repro sample`, then `rf-repro evaluate geneval --run`)"
        if is_dpg(evaluation):
            return "not scored (`rf-repro sample --prompts dpg`, then `rf-repro evaluate dpg --run`)"
        return "not asked (`rf-repro evaluate understanding --run`)"
    rows = run.metrics
    state = "not started" if not run.record.attempts else "failed" if run.record.status == "failed" else "unfinished"
    step = f" at step {rows[-1]['step']}" if rows else ""
    error = run.record.attempts[-1].error if run.record.attempts else None
    return f"{state}{step}" + (f" ({error})" if error else "")


def _failure(run: Run, evaluation: str) -> str:
    """What stopped the action of an evaluation plan that would have given a result; empty where nothing did."""
    benchmark = evaluation.removeprefix("understanding-").partition("-")[0]
    for share in failed_shares(run.dir):
        if (action := share.path.parent.name).startswith(benchmark) and (record := share.record()) is not None:
            return f"{action} failed: {record.attempts[-1].error}"
    return ""


def _check_items(run: Run, column: Column, result: EvalResult, items: Sequence[dict[str, Any]]) -> None:
    """The record must be the summary of its items: intervals come from the items, so a stale file would go unseen."""
    where = run.dir.evals / f"{column.evaluation}.items.jsonl"
    scored = [row for row in items if row["correct"] is not None]
    if len(scored) != result.n:
        raise DamagedRun(
            run.dir.path, f"{where}: {len(scored)} scored images, but the record beside it says n={result.n}; evaluate again"
        )
    for task in column.tasks:
        verdicts = [float(row["correct"]) for row in scored if row["tag"] == task]
        stated = result.metrics.get(task if task in result.metrics else column.metric)
        share = sum(verdicts) / len(verdicts) if verdicts else None
        if (share is None) != (stated is None) or (share is not None and not math.isclose(share, stated or 0, abs_tol=1e-4)):
            raise DamagedRun(
                run.dir.path, f"{where}: {task} is {share} over the items, but the record says {stated}; evaluate again"
            )
