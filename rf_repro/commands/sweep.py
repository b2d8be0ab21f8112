"""`rf-repro sweep`: grids on a SLURM cluster, or the same jobs on this machine."""

import argparse
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rf_repro.commands.options import (
    Commands,
    Names,
    add_command,
    add_data,
    add_evaluations,
    add_report_folder,
    add_runs,
    add_scale,
    add_set,
    add_share,
    all_overrides,
    at_least_one,
    by_comma,
    evaluation_plan,
    numbers,
    writable_folder,
)
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say

if TYPE_CHECKING:
    from slurm.profile import Profile
    from slurm.submission import Ledger, Request

LOG_LINES = 40


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "sweep", "run grids on a SLURM cluster", "rf-repro sweep plan table3a --scale tiny --profile cpu"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_plan(actions)
    _add_submit(actions)
    _add_status(actions)
    _add_logs(actions)
    cancel = add_command(actions, "cancel", "cancel queued and running jobs of runs; what they saved stays",
                         "rf-repro sweep cancel pixel_rf-s0")  # fmt: skip
    _add_names(cancel, "which: a run directory, pixel_rf-s0, or pixel_rf for all its seeds")
    cancel.add_argument("--all", action="store_true", help="every job of every grid of this folder, reports included")
    cancel.set_defaults(run=run_cancel)
    retry = add_command(actions, "retry", "submit failed runs again, and what waits for them", "rf-repro sweep retry pixel_rf-s0")
    _add_names(retry, "which failed runs (default: all)")
    retry.set_defaults(run=run_retry)
    profile = add_command(actions, "profile", "print a bundled cluster profile to copy and edit; without a name, list them",
                          "rf-repro sweep profile gpu-cluster")  # fmt: skip
    profile.add_argument("name", nargs="?", metavar="NAME", help="of the profile (default: list all)")
    profile.set_defaults(run=run_profile)
    evaluations = add_command(actions, "evaluations", "print the bundled evaluation plan, to copy and edit",
                              "rf-repro sweep evaluations > my-evals.yaml")  # fmt: skip
    evaluations.set_defaults(run=run_evaluations)


def _add_names(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("names", nargs="*", metavar="RUN", help=text)
    add_runs(parser)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    tables = parser.add_mutually_exclusive_group(required=True)
    tables.add_argument(
        "grid", nargs="?", type=by_comma, metavar="GRID", help="tables, by comma, FILE.py:GRID for one of your own, or all"
    )
    tables.add_argument(
        "--grid", dest="named", action=Names, type=by_comma, metavar="GRID",
        help="the same, as other commands take it (default: GRID)",
    )  # fmt: skip
    add_scale(parser)
    parser.add_argument("--seeds", metavar="NUMBERS", help="training seeds, by comma or as 0-4 (default: the tables' own, 0)")
    parser.add_argument("--only", metavar="KEYS", help="rows, by comma, e.g. pixel,pixel_rf (default: all)")
    add_runs(parser)
    add_set(parser)
    add_data(parser)
    add_evaluations(parser)
    add_share(parser)
    parser.add_argument(
        "--profile", metavar="PROFILE", help="cluster profile: a YAML file, or the name of a bundled one (default: gpu-cluster)"
    )
    add_report_folder(parser)


def _add_plan(actions: Commands) -> None:
    plan = add_command(actions, "plan", "show every action of a grid: how far it is, and what it asks of the cluster",
                       "rf-repro sweep plan table3a --scale tiny --profile cpu")  # fmt: skip
    _add_grid(plan)
    plan.set_defaults(run=run_plan, max_parallel=None)


def _add_submit(actions: Commands) -> None:
    submit = add_command(actions, "submit", "submit what a grid still needs: training, sampling, evaluation, and one report",
                         "rf-repro sweep submit table3a --scale tiny --profile cpu --seeds 0-2")  # fmt: skip
    _add_grid(submit)
    submit.add_argument(
        "--max-parallel", type=int, metavar="N", help="elements of an array that run at a time (default: the profile's, or all)"
    )
    submit.add_argument("--cluster", choices=("slurm", "local"), help="local: run the same jobs here (default: the profile's)")
    submit.add_argument("--dry-run", action="store_true", help="print the plan and the text of every sbatch call; needs no SLURM")
    submit.set_defaults(run=run_submit)


def _add_status(actions: Commands) -> None:
    status = add_command(actions, "status", "show how far every run of the submitted grids is", "rf-repro sweep status --watch")
    _add_names(status, "only these runs (default: all)")
    status.add_argument(
        "--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help="look again and again (default: once; bare: 5)"
    )
    status.set_defaults(run=run_status)


def _add_logs(actions: Commands) -> None:
    logs = add_command(actions, "logs", "print the end of a run's newest logs", "rf-repro sweep logs pixel_rf-s0 --follow")
    logs.add_argument("name", metavar="RUN", help="a run directory, or pixel_rf-s0")
    logs.add_argument("--action", metavar="NAME", help="whose log: train, sample, evaluate, mmmu, ... (default: the newest)")
    logs.add_argument("--rank", type=int, default=0, metavar="N", help="of a job with several ranks (default: 0)")
    logs.add_argument("--lines", type=int, default=LOG_LINES, metavar="N", help=f"of each file (default: {LOG_LINES})")
    logs.add_argument("--follow", action="store_true", help="go on printing what is added, until Ctrl-C")
    add_runs(logs)
    logs.set_defaults(run=run_logs)


def run_plan(options: argparse.Namespace) -> int:
    from slurm.profile import ACTIONS
    from slurm.sweep import look
    from slurm.table import costs, make_console, plan_table, summary

    ledger, request = _request(options)
    sweep = look(ledger, request, here=getattr(options, "dry_run", False))
    console = make_console()
    _say_profile(sweep.profile, options.profile)
    kinds = {row.job.kind_of(action) for row in sweep.rows for action in row.actions}
    for action in (kind for kind in ACTIONS if kind != "answer" or kind in kinds):
        count = sweep.profile.shares_of(action)
        shared = f", {count} jobs share out one" if count > 1 and action in kinds - {"train"} else ""
        say(f"  {action:<10}{sweep.profile.resources(action).describe()}{shared}")
    alone = list(dict.fromkeys(row.job.variant for row in sweep.rows if row.job.single))
    if alone and sweep.profile.resources("train").tasks > 1:
        say(f"  {', '.join(alone)}: {sweep.profile.resources('train', single=True).describe()}")
    if sweep.queue is None and sweep.profile.cluster == "slurm":
        say("no SLURM on this machine: states are those of the files")
    console.print(plan_table(sweep.rows))
    say(summary(sweep.rows))
    if sweep.profile.gpu is not None:
        console.print(costs(sweep.rows, sweep.profile))
    groups = sweep.groups()
    jobs = sum(group.num_jobs for group in groups)
    calls = sum(len(group.actions) for group in groups)
    say(f"to submit: {jobs} jobs in {calls} arrays" + (", then the report" if jobs else ""))
    return 0


def run_submit(options: argparse.Namespace) -> int:
    from slurm.sweep import dry_run, look, run_here, submit
    from slurm.table import summary

    ledger, request = _request(options)
    if options.dry_run:
        run_plan(options)
        for number, text in enumerate(dry_run(look(ledger, request, here=True)), start=1):
            say("", f"--- sbatch call {number}", *text.split("\n"))
        return 0
    sweep = look(ledger, request, here=options.cluster == "local")
    _say_profile(sweep.profile, options.profile)
    writable_folder(options.runs, "--runs")
    writable_folder(options.out, "--out")
    if (options.cluster or sweep.profile.cluster) == "local":
        done, index = run_here(sweep)
        say(f"report: {index}")
        return 0 if done else 1
    sweep, submissions = submit(ledger, request)
    for one in submissions:
        runs = list(dict.fromkeys(one.runs))
        what = f"{len(runs)} run{'s' * (len(runs) != 1)}" if runs else "of everything above"
        if len(one.runs) > len(runs):
            what = f"{len(one.runs)} shares of {runs[0]}"
        say(f"job {one.job_id}: {one.action}, {what}")
    say(summary(sweep.rows) if submissions else f"nothing to submit: {summary(sweep.rows)}")
    failed = [row.job.slug for row in sweep.rows if row.state == "failed"]
    if failed:
        say(f"failed before and left alone: {', '.join(failed[:8])}{' ...' * (len(failed) > 8)}; see `rf-repro sweep retry`")
    return 0


def run_status(options: argparse.Namespace) -> int:
    from slurm.sweep import all_sweeps, select
    from slurm.table import actions_table, make_console, status_table, summary

    ledger, console = _ledger(options), make_console()

    def render() -> tuple[object, str, bool]:
        sweeps = all_sweeps(ledger)
        rows = [row for sweep in sweeps for row in sweep.rows]
        if options.names:
            rows = [row for _, row in select(sweeps, options.names)]
        text = summary(rows)
        if any(sweep.queue is None for sweep in sweeps):
            text += "; no SLURM on this machine: states are those of the files"
        reports = [one for sweep in sweeps for one in sweep.report_jobs()]
        if reports:
            text += f"; report: job {', '.join(reports)}"
        table = (actions_table if options.names else status_table)(rows)
        return table, text, any(row.state in ("queued", "running") for row in rows) or bool(reports)

    if options.watch is None:
        table, text, _ = render()
        console.print(table)
        say(text)
        return 0
    from rich.console import Group
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            table, text, busy = render()
            live.update(Group(table, text), refresh=True)  # type: ignore[arg-type]
            if not busy:
                return 0
            time.sleep(options.watch)


def run_logs(options: argparse.Namespace) -> int:
    from slurm.sweep import all_sweeps, log_files, select

    at_least_one(options.lines, "--lines")
    ledger = _ledger(options)
    hits = select(all_sweeps(ledger), [options.name])
    if len(hits) > 1:
        raise UserError(f"run {options.name!r}: means {len(hits)}; name one of {', '.join(row.job.slug for _, row in hits[:8])}")
    row = hits[0][1]
    files = log_files(ledger, row.job, options.action, options.rank)
    if not files:
        raise UserError(f"{row.job.slug}: no job of it has written a log yet; see `rf-repro sweep status {row.job.slug}`")
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    pair = sorted(path for path in files if path.stem == newest.stem)
    follow = ["--follow=name", "--retry"] if options.follow else []
    try:
        return subprocess.run(["tail", "-v", "-n", str(options.lines), *follow, *map(str, pair)], check=False).returncode
    except KeyboardInterrupt:  # the only way out of --follow
        return 0


def run_cancel(options: argparse.Namespace) -> int:
    from slurm.queue import cancel
    from slurm.sweep import all_sweeps, select

    if bool(options.names) == options.all:
        raise UserError("sweep cancel: name runs, or give --all")
    sweeps = all_sweeps(_ledger(options))
    if any(sweep.queue is None for sweep in sweeps):
        raise UserError("sweep cancel: no SLURM on this machine; go to a login node of the cluster")
    rows = [row for sweep in sweeps for row in sweep.rows] if options.all else [row for _, row in select(sweeps, options.names)]
    ids = [job.id for row in rows for one in row.actions.values() for job in one.jobs]
    if options.all:
        ids += [one for sweep in sweeps for one in sweep.report_jobs()]
    if not ids:
        say("nothing to cancel: none of these is in the queue")
        return 0
    cancel(ids)
    say(f"cancelled {len(ids)} jobs of {len(rows)} runs: {', '.join(ids[:12])}{' ...' * (len(ids) > 12)}")
    return 0


def run_retry(options: argparse.Namespace) -> int:
    from slurm.sweep import all_sweeps, failed_rows, retry

    ledger = _ledger(options)
    rows = failed_rows(all_sweeps(ledger), options.names)
    if not rows:
        say("nothing to retry: none of these has failed")
        return 0
    for one in retry(ledger, rows):
        say(f"job {one.job_id}: {one.action}, {', '.join(Path(run).parent.name for run in one.runs) or 'of everything'}")
    return 0


def run_profile(options: argparse.Namespace) -> int:
    from slurm.profile import BUNDLED, bundled_profiles

    names = bundled_profiles()
    if options.name is None:
        say(*names)
    elif options.name not in names:
        raise UserError(f"profile {options.name!r}: not bundled; choose one of {', '.join(names)}")
    else:
        say(*(BUNDLED / f"{options.name}.yaml").read_text(encoding="utf-8").splitlines())
    return 0


def run_evaluations(options: argparse.Namespace) -> int:
    from rf_repro.evaluations.plan import BUNDLED

    say(*BUNDLED.read_text(encoding="utf-8").splitlines())
    return 0


def _ledger(options: argparse.Namespace) -> "Ledger":
    from slurm.submission import Ledger

    return Ledger(options.runs)


def _request(options: argparse.Namespace) -> "tuple[Ledger, Request]":
    from slurm.submission import Request

    profile = options.profile
    if profile is not None and Path(profile).suffix:
        profile = str(Path(profile).absolute())
    tables, changes = options.grid or options.named, all_overrides(options)
    request = Request(
        scale=options.scale,
        tables=tables,
        seeds=list(_seeds(options.seeds)) if options.seeds else None,
        only=options.only.split(",") if options.only else [],
        overrides=changes,
        share_first_stage=options.share_first_stage,
        out=str(options.out.absolute()),
        profile=profile,
        max_parallel=None if options.max_parallel is None else at_least_one(options.max_parallel, "--max-parallel"),
        evaluations=dict(evaluation_plan(options.evaluations, tables, options.scale, changes).raw),
    )
    return _ledger(options), request


def _seeds(text: str) -> Sequence[int]:
    """`0-3` or `0,1,7`."""
    first, dash, last = text.partition("-")
    if dash and first.isdigit() and last.isdigit() and int(first) <= int(last):
        return range(int(first), int(last) + 1)
    return numbers(text, "--seeds")


def _say_profile(profile: "Profile", asked: str | None) -> None:
    say(f"profile: {profile.source}" + ("" if asked else " (a bundled example; name your own with --profile)"))
