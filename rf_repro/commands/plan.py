"""`rf-repro plan`: what a grid would run and how far each run is."""

import argparse
import sys

from rf_repro.commands.options import Commands, add_command, add_grid, grid_plan
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "plan", "show what `reproduce` would run, and what is done; writes nothing",
                         "rf-repro plan --tables all --seeds 0,1")  # fmt: skip
    add_grid(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from rf_repro.core.errors import UserError
    from rf_repro.launch.progress import read_progress

    plan = grid_plan(options)
    states, damaged = [], []
    say(f"{'state':<11}{'phase':<22}{'kind':<11}run")
    for job in plan.jobs:
        state, phase = job.state, "-"
        try:
            if job.damage:
                raise UserError(job.damage)
            progress = read_progress(job)
            if state in ("resumable", "failed", "running"):
                phase = f"{progress.phase} {progress.done}/{progress.total}"
        except UserError as error:
            damaged.append(str(error))
        say(f"{state:<11}{phase:<22}{job.kind:<11}{job.run.path}")
        states.append(state)
    left = len(states) - states.count("done")
    counts = ", ".join(f"{states.count(kind)} {kind}" for kind in dict.fromkeys(states))
    say(f"{len(states)} runs: {counts}; {left} left")
    for line in damaged:
        say(f"rf-repro: {line}", file=sys.stderr)
    return 0
