"""Options that several commands share, and the reading of their values."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.config.overrides import parse_override
from rf_repro.core.errors import UserError
from rf_repro.core.shown import one_line, say
from rf_repro.core.strict_yaml import read_strict_yaml

if TYPE_CHECKING:
    from rf_repro.evaluations.plan import EvaluationPlan
    from rf_repro.launch.plan import Plan

Commands = Any  # argparse's subparsers action, whose type is private
DEVICES = ("auto", "cpu", "cuda", "mps")


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
    add_tables(parser, "table3a", "tables, by comma, FILE.py:GRID for one of your own, or all (default: table3a)")
    parser.add_argument("--seeds", metavar="NUMBERS", help="training seeds, by comma (default: the tables' own, 0)")
    add_runs(parser)
    add_set(parser)
    add_data(parser)
    add_evaluations(parser)
    add_share(parser)


def by_comma(text: str) -> list[str]:
    return text.split(",")


class Names(argparse.Action):
    """The lists of every time that the option is given, in one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


def add_tables(parser: argparse.ArgumentParser, default: str, text: str) -> None:
    """Under both names: a grid of one's own is no table of the paper. Their value is a list."""
    parser.add_argument("--tables", "--grid", action=Names, type=by_comma, default=default, metavar="NAMES", help=text)


def add_share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--share-first-stage",
        action="store_true",
        help="start all seeds from the first stage and VAE of seed 0: cheaper, and intervals do not cover its chance (default: "
        "each seed has its own)",
    )


def add_report_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="folder of the report (default: report)")


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


def add_evaluations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--evaluations", metavar="FILE",
        help="YAML file of what trained runs are sampled and scored by, as `rf-repro sweep evaluations` prints one, or none; "
        "runs on scenes score themselves (default: the paper's)",
    )  # fmt: skip


def evaluation_plan(name: str | None, tables: Sequence[str], scale: str, changes: dict[str, Any]) -> "EvaluationPlan":
    """That of `--evaluations`, for these tables; of a world that scores itself the empty one.

    Raises:
        UserError: one is given there, or it is not what it should be.
    """
    from ablations.user_grids import is_of_file, load_grid
    from rf_repro.config.overrides import apply_overrides
    from rf_repro.config.scales import get_scale
    from rf_repro.evaluations.plan import EMPTY, load_plan
    from rf_repro.worlds import world_of

    base = apply_overrides(get_scale(scale), changes)
    if world_of(base).scores_itself:
        if name is not None:
            raise UserError(f"--evaluations {name}: runs of data.world={base.data.world} score themselves; leave it out")
        return EMPTY
    return load_plan(name, [load_grid(table).name for table in tables if is_of_file(table)])


def data_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """`data.sources` as the file of `--data` gives it; {} without one. Raises UserError as `read_sources`."""
    return {} if options.data is None else {"data.sources": read_sources(options.data)}


def read_sources(file: Path) -> list[dict[str, Any]]:
    """What a file of `--data` holds, a list or a mapping with the key `sources`. Relative paths in it start at its folder: it
    can lie beside its shards.

    Raises:
        UserError: no such file, or it is neither.
    """
    if not file.exists():
        raise UserError(f"--data {file}: no such file")
    try:
        found = read_strict_yaml(file)
    except UserError as error:
        raise UserError(f"--data {error}") from None
    if isinstance(found, dict) and set(found) == {"sources"}:
        found = found["sources"]
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise UserError(f"--data {file}: must be a list of sources, each with name, path, format and task")
    for item in found:
        if isinstance(item.get("path"), str):
            try:
                path = Path(item["path"]).expanduser()
            except RuntimeError as error:  # ~NAME of nobody
                raise UserError(f"--data {file}: path={item['path']!r}: {error}; write the folder out") from None
            item["path"] = str(file.parent.absolute() / path)
    return found


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

    changes = all_overrides(options)
    return make_plan(
        options.scale, options.tables, numbers(options.seeds, "--seeds") if options.seeds else None, options.runs,
        changes, options.share_first_stage,
        evaluations=evaluation_plan(options.evaluations, options.tables, options.scale, changes),
    )  # fmt: skip


def say_recorded(path: Path) -> None:
    """Where a run's record of a score is."""
    say(f"recorded in the run: {path}")


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
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, Progress, TaskID

    console, tasks = Console(file=sys.stderr), dict[str, TaskID]()
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # what is printed meanwhile goes above the bars, but a file gets its own
    ) as bars:  # fmt: skip

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(one_line(what)), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
