"""What was read from JSON, held against annotations: records by their dataclasses, rows by tables of their fields."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from rf_repro.core.annotations import UNIONS, described, is_of
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.problems import shown, shown_value

R = TypeVar("R")
Count = Annotated[int, 0]  # an integer of at least 0
Amount = Annotated[float, 0]  # a number of at least 0
MOST = 1 << 63  # integers from here on fit no array


class Row(dict[str, Any]):
    """An object of a file. Whoever asks for a field that it lacks gets a UserError that names file and field, not a KeyError."""

    def __init__(self, values: Any = (), where: str = "") -> None:
        super().__init__(values)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise UserError(f"{self.where}: has no field {name!r}; it is damaged, or of another version")


def row_of(value: Any, where: str, hints: Mapping[str, Any], others: Any = Any) -> Row:
    """An object whose fields are of the types that are named.

    Args:
        where: the file, and the line in it, for messages.
        hints: field -> annotation, of those that it may have.
        others: annotation of all other fields.

    Raises:
        UserError: it is no object, or a field is of another type.
    """
    if not isinstance(value, dict):
        raise _refusal(where, value, "a JSON object")
    for name, held in value.items():
        typed(held, hints.get(name, others), f"{where}: {shown(name)}")
    return Row(value, where)


def strict(kind: type[R], data: Any, where: str) -> R:
    """`kind(**data)`, records within it included.

    Raises:
        UserError: a field is missing, unknown, or not of its annotation; the line begins with `where` and the field.
    """
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    optional = {item.name for item in fields(kind) if item.metadata.get("later")}  # type: ignore[arg-type]
    if not isinstance(data, dict) or not names - optional <= set(data) <= names:
        found = shown(", ".join(sorted(data))) if isinstance(data, dict) else shown_value(data)
        raise UserError(f"{where}: not a {kind.__name__} of this version: found {found}, expected {', '.join(sorted(names))}")
    hints = _hints(kind)  # type: ignore[arg-type]
    return kind(**{name: typed(held, hints[name], f"{where}: {name}") for name, held in data.items()})


def typed(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as its annotation says: objects become dataclasses, all else stays as it is. Text may have several lines.

    Raises:
        UserError: it is of another type; the line names the place within it.
    """
    if type(value) is hint and hint in (str, bool):
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return strict(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if type(value) is int and not -MOST < value < MOST and hint is not Any:
        raise _refusal(where, value, "a number below 2**63")
    if origin is Annotated:
        kind, least = arguments
        if not is_of(value, kind) or value < least:
            raise _refusal(where, value, f"{described(kind)} >= {least}")
        return value
    if origin in UNIONS:
        if value is None and NoneType in arguments:
            return None
        *others, last = (one for one in arguments if one is not NoneType)
        return typed(value, next((one for one in others if is_of(value, one)), last), where)
    if origin is list:
        if not isinstance(value, list):
            raise _refusal(where, value, "a list")
        return [typed(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            raise _refusal(where, value, f"a list of {len(arguments)}")
        return [typed(item, kind, f"{where}[{index}]") for index, (item, kind) in enumerate(zip(value, arguments, strict=True))]
    if origin is dict:
        if not isinstance(value, dict):
            raise _refusal(where, value, "a JSON object")
        return {name: typed(item, arguments[1], f"{where}.{shown(name)}") for name, item in value.items()}
    if hint is not str and is_of(value, hint):  # text is looked at above
        return value
    raise _refusal(where, value, described(hint))


def _refusal(where: str, value: Any, allowed: str) -> UserError:
    return UserError(f"{where}: is {shown_value(value)}, must be {allowed}; mend it, or have the file made again")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
