"""The `rf-repro` command line: parsing, and what an error looks like. Each subcommand is a module of `rf_repro.commands`.

Exit status: 0 done · 1 something ran and failed · 2 the request cannot be carried out · 128 + signal when stopped.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from rf_repro import __version__
from rf_repro.commands import config, data, estimate, evaluate, export, plan, report, reproduce, sample, sweep, train
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError

MAX_ERROR_LINES = 8


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are one line and a pointer to the help, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `rf-repro`; the chosen subcommand's function is its `run`."""
    parser = _Parser(
        prog="rf-repro",
        description="Reproduce 'Representation Forcing for Bottleneck-Free Unified Multimodal Models' (arXiv 2605.31604).",
        epilog="example: rf-repro reproduce --scale tiny",
    )
    parser.add_argument("--version", action="version", version=f"rf-repro {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in (reproduce, plan, estimate, sweep, train, sample, evaluate, report, export, data, config):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        _say(str(error))
        return 2
    except TrainingDiverged as error:
        _say(str(error))
        return 1
    except Stopped as reason:
        print(f"rf-repro: stopped: {reason}; run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGTERM
    except BrokenPipeError:  # the reader of a pipe left: nothing to say, and no one to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _say(f"{error.filename or 'system'}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt as interrupt:
        print("\nrf-repro: stopped; run the same command again to resume", file=sys.stderr)
        return 128 + getattr(interrupt, "signum", 2)


def _say(message: str) -> None:
    print("\n".join(f"rf-repro: error: {message}".splitlines()[:MAX_ERROR_LINES]), file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
