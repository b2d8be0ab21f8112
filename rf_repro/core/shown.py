"""The one way to a terminal: names of files, prompts, answers and errors of others cannot steer it, or forge a line of ours."""

import sys
from typing import Any, TextIO


def one_line(text: object) -> str:
    """The text with all that is not printable as its code: escape sequences, line breaks, what turns the direction of writing."""
    whole = str(text)
    return whole if whole.isprintable() else "".join(map(_printable, whole))


def say(*lines: object, file: TextIO | None = None) -> None:
    """Prints each argument as a line of its own, on standard output, or at once on `file`."""
    print("\n".join(map(one_line, lines)), file=file or sys.stdout, flush=file is not None)


def one_line_each(value: Any) -> Any:
    """JSON whose texts, names too, are all of them one line."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list | tuple):
        return [one_line_each(item) for item in value]
    if isinstance(value, dict):
        return {one_line(name): one_line_each(item) for name, item in value.items()}
    return value


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
