"""What the fields of grids, rows, columns and claims may hold. They may be a user's: a wrong one is refused where it is made, in
one line, and not by a traceback after hours of training."""

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from rf_repro.core.annotations import UNIONS, is_of
from rf_repro.core.errors import UserError

SHOWN = 60  # characters of a value in a message


def refuse(owner: str, field: str, value: object, allowed: str) -> NoReturn:
    """Raises UserError. `owner`: what has the field, e.g. `variant 'pixel'`."""
    text = " ".join(repr(value).split())
    raise UserError(f"{owner}: {field}={text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}: must be {allowed}")


def check_fields(owner: str, thing: Any, filled: Sequence[str] = ()) -> None:
    """Raises UserError where a field of a dataclass is not of its type, or one of those to be filled is empty."""
    hints = get_type_hints(type(thing))
    for name in (item.name for item in fields(thing)):
        value = getattr(thing, name)
        if not is_of(value, hints[name]):
            refuse(owner, name, value, _words(hints[name]))
        if name in filled and not (value.strip() if isinstance(value, str) else value):
            refuse(owner, name, value, f"{_words(hints[name])}, and not empty")


def check_word(owner: str, field: str, value: str) -> None:
    """Of a name that becomes the name of a file or folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value) or value.lower().startswith("stage-"):
        refuse(owner, field, value, "of letters, digits, _ and -, and not begin with stage-")


def repeated(values: Sequence[Any]) -> list[Any]:
    """Those that stand there more than once."""
    return [value for value in values if values.count(value) > 1]


def _words(hint: Any) -> str:
    """A type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return " or ".join(map(_words, args))
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        return f"a tuple{'' if args[-1] is Ellipsis else f' of {len(args)}'}, each item {_words(args[0])}"
    if origin is Mapping:
        return "a mapping of dotted paths to values"
    if origin is Callable:
        return "a function of the scale's config that returns one"
    known = {str: "text of one line", int: "a whole number", float: "a number", type(None): "None"}
    return known.get(hint) or f"of type {hint.__name__}"


def explain(error: BaseException, file: str) -> str:
    """`, line 7: KeyError: 'x'`: where in a user's file an error arose, what it says, and what to do where that is known."""
    return f"{_line_in(error, file)}: {_said(error)}{_remedy(error, Path(file).parent)}"


def _said(error: BaseException) -> str:
    """The error in one line. What is ours to say needs no name of a class."""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _line_in(error: BaseException, file: str) -> str:
    """`, line 7`: where in a file an error arose."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}" if error.lineno else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _remedy(error: BaseException, folder: Path) -> str:
    """What to do about an import of a file beside one's own: nothing looks for modules there, and a sweep copies the one file."""
    if not isinstance(error, ImportError):
        return ""
    name = (error.name or "").partition(".")[0]
    beside = name and isinstance(error, ModuleNotFoundError) and any((folder / one).exists() for one in (name, f"{name}.py"))
    if not beside and "relative import" not in str(error):
        return ""
    return "; a grid's file cannot import the files beside it: put what it needs of them into it"
