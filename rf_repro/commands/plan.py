"""`rf-repro plan`: what a grid would run and how far each run is."""

import argparse

from rf_repro.commands.options import Commands, add_command, add_grid, grid_plan
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "plan", "show what `reproduce` would run, and what is done; writes nothing",
                         "rf-repro plan --tables all --seeds 0,1")  # fmt: skip
    add_grid(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from rf_repro.launch.progress import read_progress

    plan = grid_plan(options)
    states = []
    say(f"{'state':<11}{'phase':<22}{'kind':<11}run")
    for job in plan.jobs:
        state = job.state
        progress = read_progress(job)
        phase = f"{progress.phase} {progress.done}/{progress.total}" if state in ("resumable", "failed", "running") else "-"
        say(f"{state:<11}{phase:<22}{job.kind:<11}{job.run.path}")
        states.append(state)
    left = len(states) - states.count("done")
    counts = ", ".join(f"{states.count(kind)} {kind}" for kind in dict.fromkeys(states))
    say(f"{len(states)} runs: {counts}; {left} left")
    return 0
