"""What the schema's dataclasses are made of: kinds of fields, and how a wrong value is said."""

from dataclasses import field
from typing import TypeVar

from rf_repro.core.errors import UserError

T = TypeVar("T")


def runtime_field(default: T, later: bool = False) -> T:
    """A field that steers the run but not its result: left out of the config hash. `later`: it may be absent in a file."""
    return field(default=default, metadata={"affects_results": False, "later": later})


def later_field(default: T) -> T:
    """A field newer than published records: at its default it is left out of the config hash, and may be absent in a file."""
    return field(default=default, metadata={"later": True})


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise UserError(f"{name}={value!r}: must be {allowed}")
