"""`rf-repro reproduce`: from nothing to the report, resuming whatever was begun."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from rf_repro.commands.options import (
    Commands,
    add_command,
    add_device,
    add_grid,
    all_overrides,
    at_least_one,
    grid_plan,
    launch,
    writable_folder,
)
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.core.files import read_json
from rf_repro.core.run_dir import RunDir

if TYPE_CHECKING:
    from ablations.grid import AblationGrid


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "reproduce", "train, sample and score the tables' variants, then build the report",
                         "rf-repro reproduce --scale tiny --seeds 0")  # fmt: skip
    add_grid(parser)
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="folder of the report (default: report)")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time, of one CPU thread each (default: one a core, four at most, or one a GPU)",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    jobs = None if options.jobs is None else at_least_one(options.jobs, "--jobs")
    plan = grid_plan(options)
    writable_folder(options.runs, "--runs")
    writable_folder(options.out, "--out")
    done = launch(plan, options.device, jobs)
    from ablations.registry import GRIDS, get_grid
    from reports.build import build_report

    print("building the report", file=sys.stderr)
    index = build_report([options.runs], options.out, options.scale, all_overrides(options))
    names = list(GRIDS) if "all" in options.tables.split(",") else options.tables.split(",")
    world = apply_overrides(get_scale(options.scale), all_overrides(options)).data.world
    grids = [get_grid(name).in_world(world) for name in names]
    _print_results(options, [job.run for job in plan.jobs if job.kind == "variant"], grids)
    print(f"report: {index}")
    return 0 if done else 1


def _print_results(options: argparse.Namespace, runs: Sequence[RunDir], tables: "Sequence[AblationGrid]") -> None:
    """The measured scores of this plan's runs, and the report's verdicts on these tables."""
    records = [(run, run.record()) for run in runs]
    for table in tables:
        print(f"\n{table.title}, scale {options.scale}: {table.caption}")
        for row in table.rows:
            for column in table.columns:
                found = [run.eval_result(column.evaluation) for run, record in records if record.variant == row.key]
                scores = [score for result in found if result and (score := result.metrics[column.metric]) is not None]
                text = f"{mean(scores):.3f} ({', '.join(f'{score:.3f}' for score in scores)} by seed)" if scores else "not run"
                print(f"  {row.label:<16}{column.label:<10}{text}")
    names = {table.name for table in tables}
    for claim in read_json(options.out / "claims.json"):
        if claim["table"] in names:
            measured = ""
            if claim["difference"] is not None:
                measured = f": {claim['difference']:+.3f}, 95% interval {claim['low']:+.3f} to {claim['high']:+.3f}"
            print(f"  {claim['statement']} ({claim['table']}): {claim['verdict']}{measured}")
