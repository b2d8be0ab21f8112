"""`rf-repro train`: one variant of a table, with the shared stage it starts from."""

import argparse
from pathlib import Path

from rf_repro.commands.options import (
    Commands,
    Names,
    add_command,
    add_data,
    add_device,
    add_evaluations,
    add_runs,
    add_scale,
    add_set,
    all_overrides,
    at_least_one,
    by_comma,
    evaluation_plan,
    numbers,
    writable_folder,
)
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "train", "train, sample and score one variant, resuming where it stopped",
                         "rf-repro train --table table3a --variant pixel_rf --seed 0")  # fmt: skip
    add_scale(parser)
    parser.add_argument(
        "--table", "--grid", action=Names, type=by_comma, default="table3a", metavar="NAME",
        help="table of the variant, FILE.py:GRID for one of your own (default: table3a)",
    )  # fmt: skip
    parser.add_argument("--variant", required=True, metavar="KEY", help="row of the table, e.g. pixel_rf")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="training seed (default: 0)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    add_runs(parser)
    add_set(parser)
    add_data(parser)
    add_evaluations(parser)
    parser.add_argument(
        "--init-from", type=Path, metavar="RUN",
        help="start the last stage from this run's averaged weights instead of the stages before it (default: none)",
    )  # fmt: skip
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from rf_repro.launch.here import complete, complete_as_rank, is_rank
    from rf_repro.launch.plan import make_plan

    seeds = numbers(str(options.seed), "--seed")
    if len(options.table) > 1:
        raise UserError(f"--table {','.join(options.table)}: must be one table, that of --variant; name it once")
    changes = all_overrides(options)
    plan = make_plan(
        options.scale, options.table, seeds, options.runs, changes, only=[options.variant], init_from=options.init_from,
        evaluations=evaluation_plan(options.evaluations, options.table, options.scale, changes),
    )  # fmt: skip
    writable_folder(options.runs, "--runs")
    threads = at_least_one(options.threads, "--threads")
    if is_rank():
        complete_as_rank(plan, options.device, threads)
        return 0
    done = complete(plan, options.device, 1, threads)
    say(plan.jobs[-1].run.path)
    return 0 if done else 1
