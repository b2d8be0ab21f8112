"""The `rf-repro` command line: parsing, and what an error looks like. Each subcommand is a module of `rf_repro.commands`.

Exit status: 0 done · 1 something ran and failed · 2 the request cannot be carried out · 128 + signal when stopped.
"""

import os
import sys

# `python -m` and torchrun put the folder where the user types first. A checkout's root is meant by that; a `yaml.py` is not, nor
# is a clone's folder `rf_repro`, which an editable install comes after.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] != os.path.abspath(f"{__file__}/../.."):
    del sys.path[0]
    if getattr(sys.modules.get("rf_repro"), "__file__", "") is None:
        del sys.modules["rf_repro"]

import argparse
import signal
from collections.abc import Sequence
from typing import NoReturn

import rf_repro
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError
from rf_repro.core.huge_pages import ask_for_huge_pages
from rf_repro.core.import_path import check_packages, put_first
from rf_repro.core.shown import say
from rf_repro.core.streams import keep_streams

MAX_ERROR = 4000  # characters


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are one line and a pointer to the help, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `rf-repro`; the chosen subcommand's function is its `run`."""
    from rf_repro.commands import config, data, estimate, evaluate, export, plan, report, reproduce, sample, sweep, train

    parser = _Parser(
        prog="rf-repro",
        description="Reproduce 'Representation Forcing for Bottleneck-Free Unified Multimodal Models' (arXiv 2605.31604).",
        epilog="example: rf-repro reproduce --scale tiny",
    )
    parser.add_argument("--version", action="version", version=f"rf-repro {rf_repro.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in (reproduce, plan, estimate, sweep, train, sample, evaluate, report, export, data, config):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    keep_streams()
    ask_for_huge_pages()
    try:
        status = _run(arguments)
    except SystemExit as end:  # argparse: it printed its help, or an error
        raise SystemExit(_delivered(int(end.code or 0))) from None
    return _delivered(status)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        put_first()
        check_packages()
        options = make_parser().parse_args(arguments)
        status: int = options.run(options)
        return status
    except UserError as error:
        _say(str(error))
        return 2
    except TrainingDiverged as error:
        _say(str(error))
        return 1
    except Stopped as reason:
        say(f"rf-repro: stopped: {reason}; run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGTERM
    except OSError as error:
        _say_system(error)
        return 2
    except KeyboardInterrupt as interrupt:
        say("", "rf-repro: stopped; run the same command again to resume", file=sys.stderr)
        return 128 + getattr(interrupt, "signum", 2)


def _delivered(status: int) -> int:
    """The status, once all output has been written: at the end of Python it would be too late to say what became of it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _say_system(error)
        return status or 2
    return status


def _say_system(error: OSError) -> None:
    _say(f"{error.filename or 'system'}: {error.strerror or error}")


def _say(message: str) -> None:
    line = message if len(message) <= MAX_ERROR else f"{message[:MAX_ERROR]}..."
    say(f"rf-repro: error: {line}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
