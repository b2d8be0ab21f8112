"""Options are what their annotations say: checked once, when they are made, and not where they are used hours later."""

from dataclasses import fields
from reprlib import Repr
from typing import Any, get_type_hints

from rf_repro.core.annotations import described, is_of
from rf_repro.core.errors import UserError

_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxother = 120


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
            raise refusal(name, value, described(hint), of)


def at_least_one(options: Any, *names: str) -> None:
    """Raises UserError when a number of these fields is there and is below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise refusal(name, value, ">= 1")


def refusal(name: str, value: object, allowed: str, of: str = "") -> UserError:
    """The error about a field, in one line."""
    return UserError(f"{of}{name}={' '.join(_SHOWN.repr(value).split())}: must be {allowed}")
