"""Errors of the library, which names its fields, in the words of a command, which has flags."""

import argparse
import re
from collections.abc import Callable, Mapping

from rf_repro.core.errors import UserError

_QUOTES = "'\""
_GIVEN = re.compile(r"""(?<![\w.])(\w+)=('[^']*'|"[^"]*"|[^\s'";:,)]+)""")


def speak_flags(parser: argparse.ArgumentParser) -> None:
    """From here on what the parser's command runs says `--batch-size 4` and `--partial` for `batch_size=4` and `partial=True`."""
    run: Callable[[argparse.Namespace], int] = parser.get_default("run")
    flags = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}

    def in_flags(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except UserError as error:
            raise UserError(with_flags(str(error), flags)) from error

    parser.set_defaults(run=in_flags)


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """The message with each `field=value` of these fields as its flag."""

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name not in flags:
            return found[0]
        return flags[name] if value == "True" else f"{flags[name]} {value.strip(_QUOTES)}"

    return _GIVEN.sub(flag, message)
