"""Options are what their annotations say: checked once, when they are made, and not where they are used hours later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rf_repro.core.annotations import UNIONS, is_of
from rf_repro.core.errors import UserError

_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxother = 120
_WORDS = {bool: "True or False", int: "an integer", float: "a number", str: "text", Path: "a path", type(None): "None"}


def check_fields(options: Any, of: str = "") -> None:
    """Holds every field of a dataclass against its annotation.

    Args:
        of: what stands before a field's name in the message.

    Raises:
        UserError: a value is of another type, or none of the literals.
    """
    hints = get_type_hints(type(options))
    for name in (item.name for item in fields(options)):
        value, hint = getattr(options, name), hints[name]
        if not is_of(value, hint):
            raise refusal(name, value, _said(hint), of)


def at_least_one(options: Any, *names: str) -> None:
    """Raises UserError when a number of these fields is there and is below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise refusal(name, value, ">= 1")


def refusal(name: str, value: object, allowed: str, of: str = "") -> UserError:
    """The error about a field, in one line."""
    return UserError(f"{of}{name}={' '.join(_SHOWN.repr(value).split())}: must be {allowed}")


def _said(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS or origin is Literal:
        *others, last = _ways(hint)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is Callable:
        return "a function"
    if origin is tuple:
        return f"({', '.join(map(_said, arguments))})"
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping of {_said(arguments[0])} to {_said(arguments[1])}"
    if origin is Sequence:
        return f"a list, each of it {_said(arguments[0])}"
    return "anything" if hint is Any else _WORDS.get(hint) or f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}"


def _ways(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    return [way for one in get_args(hint) for way in _ways(one)] if get_origin(hint) in UNIONS else [_said(hint)]
