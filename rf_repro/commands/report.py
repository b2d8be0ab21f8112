"""`rf-repro report`: tables, plots and verdicts from finished runs; needs no torch."""

import argparse
from pathlib import Path

from rf_repro.commands.options import (
    Commands,
    add_command,
    add_data,
    add_scale,
    add_set,
    add_tables,
    all_overrides,
    writable_folder,
)
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "report", "build tables, plots and verdicts from runs",
                         "rf-repro report --runs runs --out report")  # fmt: skip
    parser.add_argument(
        "--runs", type=Path, action="append", metavar="DIR", help="folder of runs; may be repeated (default: runs)"
    )
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="folder to write (default: report)")
    parser.add_argument(
        "--ship",
        type=Path,
        metavar="DIR",
        help="also copy what the report reads to DIR, small enough to publish (default: do not)",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="also rewrite the scale's table of claims between its two marker comments in FILE (default: do not)",
    )
    add_tables(parser, "all", "tables of your own beside the paper's, by comma, each as FILE.py:GRID (default: all, the paper's)")
    add_scale(parser)
    add_set(parser)
    add_data(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from reports.build import make_document
    from reports.findings import find
    from reports.write import write_report

    runs = options.runs or [Path("runs")]
    changes, tables = all_overrides(options), options.tables
    findings = find(runs, options.scale, changes, tables)
    say(write_report(make_document(findings), writable_folder(options.out, "--out")))
    if options.ship is not None:
        from reports.ship import ship_results

        for path in ship_results(runs, writable_folder(options.ship, "--ship"), options.scale, changes, tables):
            say(path)
    if options.readme is not None:
        from reports.readme import update_readme

        update_readme(options.readme, findings)
        say(options.readme)
    return 0
