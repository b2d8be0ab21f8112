"""Run directories made small enough to publish with the code: records and outcomes, no checkpoints and no samples."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.grid import GENEVAL
from ablations.registry import GRIDS
from reports.collect import Run, load_runs, select
from reports.contact_sheet import make_contact_sheet
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, write_json, write_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir

MAX_METRIC_ROWS = 200


def ship_results(runs: Sequence[Path], out: Path, scale: str = "tiny") -> list[Path]:
    """Copies what a report at `scale` reads, from every run that belongs to a table and every stage they share.

    Metrics are thinned to `MAX_METRIC_ROWS` rows, per-image rows lose `details`, attempts their host and process, and a
    contact sheet stands in for the samples. A run shipped before is replaced whole.

    Args:
        runs: folders of run directories.
        out: folder to fill, e.g. `reports/results/tiny`.

    Returns:
        The shipped run directories, `out/<variant>/<hash12>-s<seed>`.

    Raises:
        UserError: no run belongs, or the destination holds something else.
    """
    chosen: dict[Path, Run] = {}
    for grid in GRIDS.values():
        selected = select(grid, scale, load_runs(runs))
        for seeds in (selected.rows | selected.shared).values():
            chosen |= {run.dir.path.resolve(): run for run in seeds.values()}
    if not chosen:
        raise UserError(f"{', '.join(map(str, runs)) or '--runs'}: no run of any table at scale {scale}; train one first")
    return [_ship(run, Path(out) / run.record.variant / run.dir.path.name) for run in chosen.values()]


def thin(rows: Sequence[dict[str, Any]], most: int = MAX_METRIC_ROWS) -> list[dict[str, Any]]:
    """At most `most` rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _ship(run: Run, destination: Path) -> Path:
    if destination.exists():
        if destination.resolve() == run.dir.path.resolve():
            raise UserError(f"{destination}: is both a source and the destination; name other --runs")
        if not (destination / "run.json").exists():
            raise UserError(f"{destination}: is not a run directory; move it away")
    destination.parent.mkdir(parents=True, exist_ok=True)
    staged = RunDir(Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent)))
    try:
        _copy(run, staged)
        staged.path.chmod(0o755)
        if destination.exists():
            shutil.rmtree(destination)
        staged.path.rename(destination)
    finally:
        shutil.rmtree(staged.path, ignore_errors=True)
    return destination


def _copy(run: Run, staged: RunDir) -> None:
    write_json(staged.config_path, run.dir.config())
    if run.dir.metrics_path.exists():
        write_jsonl(staged.metrics_path, thin(run.dir.metrics()))
    for name in run.dir.eval_names():
        result = run.dir.eval_result(name)
        assert result is not None
        if result.items is not None:
            write_jsonl(staged.evals / f"{name}.items.jsonl", [_without_details(row) for row in run.dir.eval_items(name)])
        staged.write_eval(name, result)
    sheet = run.dir.path / "contact_sheet.png"
    final = run.dir.eval_result(GENEVAL.evaluation)
    if ImageFolder(run.dir.samples).is_complete() and final is not None:
        image = make_contact_sheet(ImageFolder(run.dir.samples), run.dir.eval_items(GENEVAL.evaluation), GENEVAL.tasks)
        with atomic_path(staged.path / "contact_sheet.png") as temporary:
            image.save(temporary, format="PNG", optimize=True)
    elif sheet.exists():
        shutil.copyfile(sheet, staged.path / "contact_sheet.png")
    # Last: what was killed half-way is not a run. Whose machine it ran on is left out.
    staged.write_record(replace(run.record, attempts=[replace(attempt, host="", pid=0) for attempt in run.record.attempts]))


def _without_details(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "details"}
