"""A plan completed on this machine: how many runs at once, on which devices, and how long it will take."""

import os
import sys

from rf_repro.core.shown import say
from rf_repro.launch.display import make_display
from rf_repro.launch.jobs import LocalJob, RunJob, run_as_rank
from rf_repro.launch.local import run_plan
from rf_repro.launch.machine import default_jobs, look_at
from rf_repro.launch.plan import Job, Plan
from rf_repro.worlds import world_of

SHORT = 1000  # steps of all runs together, which are over before a measurement would pay


def complete(plan: Plan, device: str, jobs: int | None, threads: int = 1) -> bool:
    """Completes the plan's runs, after a line that says what machine this is; True when all of them are done.

    Args:
        device: auto, cpu, cuda or mps.
        jobs: runs at once; None: as many as suit the machine.
        threads: CPU threads of each.
    """
    check_plan(plan)
    left = [job for job in plan.jobs if job.state != "done" and world_of(job.config).scores_itself]
    at_once, machine = jobs or default_jobs(), None
    if sum(job.steps for job in left) > SHORT:
        machine = look_at(left, device, at_once, threads)
        if machine is None:
            _say("this machine could not be measured; the time left follows as runs advance")
    if machine is not None:
        at_once = jobs or max(at_once, len(machine.gpus))
        device = "cpu" if machine.kind == "cpu" else device  # also where another one failed, which was told
        _say(f"this machine: {machine.describe(at_once, left)}")
    gpus = machine.gpus if machine is not None else ()

    def make_call(job: Job, count: int, slot: int, ranks: int) -> LocalJob:
        one = RunJob(job, plan.runs, device, count)
        return LocalJob(one, gpus[slot % len(gpus)]) if gpus else LocalJob(one, ranks=ranks)

    may_share, speed = (machine is not None and machine.kind == "cpu"), machine.speed if machine else None
    return not run_plan(plan, make_call, make_display(), at_once, threads, speed, may_share)


def check_plan(plan: Plan) -> None:
    """Raises UserError where something that the evaluations still to be done need is not there: before training, not after."""
    left = [(job.config, found) for job in plan.jobs if (found := job.open_evaluations)]
    if left:
        from rf_repro.evaluations.check import check_evaluations

        check_evaluations(left)


def is_rank() -> bool:
    """Whether torchrun started this process beside others: a run is then theirs together."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def complete_as_rank(plan: Plan, device: str, threads: int) -> None:
    """Completes the plan's runs in order, as one of the ranks that torchrun started.

    Raises:
        Stopped: torchrun ends its ranks; everything is saved.
    """
    check_plan(plan)
    run_as_rank([RunJob(job, plan.runs, device, threads) for job in plan.jobs])


def _say(text: str) -> None:
    say(text, file=sys.stderr)
