"""Run directories made small enough to publish with the code: records and outcomes, no checkpoints and no samples."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.grid import GENEVAL
from ablations.registry import reported_grids
from ablations.table1 import TABLE1
from reports.collect import select
from reports.contact_sheet import read_sheets, require_scored
from reports.levels import find_levels
from reports.runs import Run, load_runs
from reports.systems import system_rows
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.core.dpg_names import is_dpg
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_folder, write_json, write_jsonl
from rf_repro.core.geneval_names import is_sized
from rf_repro.core.run_dir import RunDir

MAX_METRIC_ROWS = 200
SHIPPED = re.compile(r"(config|run)\.json|metrics\.jsonl|(contact|wrong)_sheet\.png|evals/[\w.-]+\.(json|items\.jsonl\.gz)")
KEPT = ("prompt_id", "sample", "question_id", "key", "cluster", "tag", "prompt", "reason", "failure", "expected", "answer")


def ship_results(
    runs: Sequence[Path], out: Path, scale: str = "tiny", changes: Mapping[str, Any] | None = None, tables: Sequence[str] = ()
) -> list[Path]:
    """Copies what a report at `scale` reads, from every finished run that belongs to a table, in any world, what they started
    from, and the systems of Table 1.

    Metrics are thinned to `MAX_METRIC_ROWS` rows, items keep what a report reads and only where one does, attempts lose their
    host and process, and sheets of some images stand in for the samples. A run shipped before is replaced whole.

    Args:
        runs: folders of run directories.
        out: folder to fill, e.g. `reports/results/tiny`.
        changes, tables: as of `reports.findings.find`.

    Returns:
        The shipped run directories, `out/<variant>/<hash12>-s<seed>`.

    Raises:
        UserError: no finished run belongs, or the destination holds something else.
    """
    chosen: dict[Path, Run] = {}
    loaded = load_runs(runs)
    grids = reported_grids(tables, apply_overrides(get_scale(scale), changes or {}))
    selected = [select(grid, scale, loaded, changes) for grid in grids]
    of_tables = [run for table in selected for seeds in (table.rows | table.shared).values() for run in seeds.values()]
    (table1,) = [table for table in selected if table.grid.name == TABLE1.name]
    of_systems = [run for row in system_rows(table1, loaded) for run in row.measured]
    in_other_worlds = [run for level in find_levels(selected, loaded) for run in (*level.runs, *level.components)]
    for run in of_tables + of_systems + in_other_worlds:
        if run.record.status == "done":
            chosen[run.dir.path.resolve()] = run
    if not chosen:
        raise UserError(
            f"{', '.join(map(str, runs)) or '--runs'}: no finished run of any table at scale {scale}; train one first"
        )
    read = {column.evaluation for grid in grids for column in (*grid.columns, *grid.real_columns)}
    return [_ship(run, Path(out) / run.record.variant / run.dir.path.name, read) for run in chosen.values()]


def thin(rows: Sequence[dict[str, Any]], most: int = MAX_METRIC_ROWS) -> list[dict[str, Any]]:
    """At most `most` rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _ship(run: Run, destination: Path, read: Container[str]) -> Path:
    if destination.exists():
        if destination.resolve() == run.dir.path.resolve():
            raise UserError(f"{destination}: is both a source and the destination; name other --runs")
        if not (destination / "run.json").exists():
            raise UserError(f"{destination}: is not a run directory; move it away")
    with atomic_folder(destination, lambda name: SHIPPED.fullmatch(name) is not None) as staged:
        _copy(run, RunDir(staged), read)
    return destination


def _copy(run: Run, staged: RunDir, read: Container[str]) -> None:
    write_json(staged.config_path, run.dir.config())
    if run.dir.metrics_path.exists():
        write_jsonl(staged.metrics_path, [_rounded(row) for row in thin(run.metrics)])
    shown = _ship_sheets(run, staged)
    for name, result in run.results.items():
        if result.items is not None and _is_read(name, read):
            rows = [_outcome(row, shown if name == GENEVAL.evaluation else frozenset()) for row in run.items(name)]
            items = f"{name}.items.jsonl.gz"
            write_jsonl(staged.evals / items, rows)
            staged.write_eval(name, replace(result, items=items))
        else:
            staged.write_eval(name, replace(result, items=None))
    # Last: what was killed half-way is not a run. Whose machine it ran on is left out; evaluations are attempts of the run here.
    staged.write_record(replace(run.record, attempts=[replace(attempt, host="", pid=0) for attempt in run.attempts]))


def _ship_sheets(run: Run, staged: RunDir) -> frozenset[tuple[int, int]]:
    """Writes the run's sheets; returns (prompt id, sample) of the images on them."""
    if GENEVAL.evaluation not in run.results:
        return frozenset()
    sheets = read_sheets(run.dir, run.items(GENEVAL.evaluation), GENEVAL.tasks)
    for name, sheet in sheets.items():
        require_scored(sheet).save(staged.path / name)
    return frozenset(place for sheet in sheets.values() for place in sheet.places())


def _is_read(name: str, columns: Container[str]) -> bool:
    """Whether a report reads the items of that evaluation, not its record alone. `columns`: the evaluations that tables show."""
    return name in columns or is_sized(name) or is_dpg(name) or name.rpartition("-step")[0] in columns


def _outcome(row: Mapping[str, Any], shown: Container[tuple[int, int]]) -> dict[str, Any]:
    """What a report reads of one item: boxes only where its image is shipped, fields that say nothing left out."""
    kept = {key: value for key, value in row.items() if key in KEPT and value not in ("", None)}
    kept["correct"] = row["correct"]  # None says something: it could not be scored
    if "details" in row and (row["prompt_id"], row["sample"]) in shown:
        found = row["details"].items()
        kept["details"] = {name: [[round(number, 3) for number in box] for box in boxes] for name, boxes in found}
    return kept


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Logged numbers to six significant digits."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}
