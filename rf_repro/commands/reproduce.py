"""`rf-repro reproduce`: from nothing to the report, resuming whatever was begun."""

import argparse
import sys

from rf_repro.commands.options import (
    Commands,
    add_command,
    add_device,
    add_grid,
    add_report_folder,
    all_overrides,
    at_least_one,
    grid_plan,
    writable_folder,
)
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.core.files import read_json
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "reproduce", "train, sample and score the tables' variants, then build the report",
                         "rf-repro reproduce --scale tiny --seeds 0")  # fmt: skip
    add_grid(parser)
    add_report_folder(parser)
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time, of one CPU thread each (default: one a core, four at most, or one a GPU)",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from ablations.registry import get_grids
    from rf_repro.launch.here import complete

    jobs = None if options.jobs is None else at_least_one(options.jobs, "--jobs")
    plan, names = grid_plan(options), options.tables
    writable_folder(options.runs, "--runs")
    writable_folder(options.out, "--out")
    done = complete(plan, options.device, jobs)
    from reports.build import build_report
    from reports.summary import summary

    say("building the report", file=sys.stderr)
    changes = all_overrides(options)
    index = build_report([options.runs], options.out, options.scale, changes, names)
    base = apply_overrides(get_scale(options.scale), changes)
    tables = [grid.in_world(base.data.world) for grid in get_grids(names, base)]
    runs = [job.run for job in plan.jobs if job.kind == "variant"]
    say(*summary(base, runs, tables, read_json(options.out / "claims.json")))
    say(f"report: {index}")
    return 0 if done else 1
