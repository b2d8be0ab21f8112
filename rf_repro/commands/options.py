"""Options that several commands share, and the reading of their values."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rf_repro.config.overrides import parse_override
from rf_repro.core.errors import UserError

if TYPE_CHECKING:
    from rf_repro.launch.plan import Job, Plan

Commands = Any  # argparse's subparsers action, whose type is private
DEVICES = ("auto", "cpu", "cuda", "mps")
SHORT = 1000  # steps of all runs together, which are over before a measurement would pay


def add_command(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose help ends with a working example."""
    return commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def add_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", default="tiny", metavar="NAME", help="size of the experiment: tiny, base, ... (default: tiny)")


def add_grid(parser: argparse.ArgumentParser) -> None:
    """Which runs: shared by `reproduce` and `plan`, which must mean the same by them."""
    add_scale(parser)
    parser.add_argument("--tables", default="table3a", metavar="NAMES", help="tables, by comma, or all (default: table3a)")
    parser.add_argument("--seeds", metavar="NUMBERS", help="training seeds, by comma (default: the tables' own, 0)")
    add_runs(parser)
    add_set(parser)
    add_data(parser)
    parser.add_argument(
        "--reseed-first-stage",
        action="store_true",
        help="train the shared first stage for each seed (default: once for all)",
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (default: runs)")


def add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE",
        help="change the scale's config before every variant, e.g. stages.joint.steps=200; may be repeated (default: none)",
    )  # fmt: skip


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="FILE",
        help="YAML list of the data's sources: name, path, format, task, weight and columns of each (default: the scale's own)",
    )  # fmt: skip


def data_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """`data.sources` as the file of `--data` gives it, a list or a mapping with the key `sources`; {} without one. Relative paths
    in it start at its folder, so that it can lie beside its shards.

    Raises:
        UserError: no such file, or it is neither.
    """
    if options.data is None:
        return {}
    try:
        found = yaml.safe_load(options.data.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--data {options.data}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise UserError(f"--data {options.data}: is not valid YAML") from None
    if isinstance(found, dict) and set(found) == {"sources"}:
        found = found["sources"]
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise UserError(f"--data {options.data}: must be a list of sources, each with name, path, format and task")
    for item in found:
        if isinstance(item.get("path"), str):
            item["path"] = str(options.data.parent.absolute() / Path(item["path"]).expanduser())
    return {"data.sources": found}


def add_device(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute (default: auto, the best there is)")


def overrides(texts: list[str]) -> dict[str, Any]:
    """`--set` values as dotted path -> value. Raises UserError on a path given twice."""
    found: dict[str, Any] = {}
    for text in texts:
        path, value = parse_override(text)
        if path in found:
            raise UserError(f"--set {path}: given twice; give it once")
        found[path] = value
    return found


def all_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Of `--set` and `--data` together."""
    found, data = overrides(options.set), data_overrides(options)
    if data.keys() & found.keys():
        raise UserError("--set data.sources: given by --data too; use one of them")
    return {**found, **data}


def numbers(text: str, option: str) -> tuple[int, ...]:
    """`"0,1,2"` -> (0, 1, 2), different and >= 0."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text!r}: must be whole numbers separated by commas, for example 0,1,2") from None
    if min(found) < 0 or len(set(found)) < len(found):
        raise UserError(f"{option} {text!r}: must be different and >= 0")
    return found


def share(text: str) -> tuple[int, int]:
    """`--shard "2/8"` -> (1, 8)."""
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise UserError(f"--shard {text!r}: must be I/N with I from 1 to N, for example 2/8")
    return int(first) - 1, int(second)


def at_least_one(value: int, option: str) -> int:
    if value < 1:
        raise UserError(f"{option} {value}: must be >= 1")
    return value


def writable_folder(path: Path, option: str) -> Path:
    """The path, if it is or can become a folder that one can write to; checked before hours of work, not after."""
    nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: no permission to write in {nearest}; name another folder")
    return path


def grid_plan(options: argparse.Namespace) -> "Plan":
    """The plan that the options of `add_grid` ask for."""
    from rf_repro.launch.plan import make_plan

    return make_plan(
        options.scale, options.tables.split(","), numbers(options.seeds, "--seeds") if options.seeds else None, options.runs,
        all_overrides(options), options.reseed_first_stage,
    )  # fmt: skip


def launch(plan: "Plan", device: str, jobs: int | None, threads: int = 1) -> bool:
    """Completes the plan's runs on this machine, after a line that says what machine it is; True when all of them are done.

    Args:
        jobs: runs at once; None: as many as suit the machine.
    """
    from rf_repro.launch.display import make_display
    from rf_repro.launch.jobs import LocalJob, RunJob
    from rf_repro.launch.local import run_plan
    from rf_repro.launch.machine import default_jobs, look_at

    left = [job for job in plan.jobs if job.state != "done" and job.config.data.world == "scenes"]
    at_once, machine = jobs or default_jobs(), None
    if sum(job.steps for job in left) > SHORT:
        machine = look_at(left, device, at_once, threads)
        if machine is None:
            print("this machine could not be measured; the time left follows as runs advance", file=sys.stderr, flush=True)
    if machine is not None:
        at_once = jobs or max(at_once, len(machine.gpus))
        device = "cpu" if machine.kind == "cpu" else device  # also where another one failed, which was told
        print(f"this machine: {machine.describe(at_once, left)}", file=sys.stderr, flush=True)
    gpus = machine.gpus if machine is not None else ()

    def make_call(job: "Job", count: int, slot: int) -> LocalJob:
        one = RunJob(job, plan.runs, device, count)
        return LocalJob(one, gpus[slot % len(gpus)]) if gpus else LocalJob(one)

    return not run_plan(plan, make_call, make_display(), at_once, threads, machine.speed if machine else None)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that draws a bar on a terminal, on stderr, and nothing elsewhere."""
    with progress_bars() as show:
        show(label, 0, None)
        yield lambda done, total: show(label, done, total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """The same of (what is done, done, total): a bar for each thing, below the one before."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TaskID

    console, tasks = Console(file=sys.stderr), dict[str, TaskID]()
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # what is printed meanwhile goes above the bars, but a file gets its own
    ) as bars:  # fmt: skip

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
