"""Values held against annotations: what a user makes is refused where it is made, in the words of whoever refuses it."""

import math
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

UNIONS = (Union, types.UnionType)
_WORDS = {bool: "True or False", int: "an integer", float: "a number", str: "text", Path: "a path", type(None): "None"}


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type. Text is of one line, numbers are finite, and a truth value is no number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in UNIONS:
        return any(is_of(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is Callable:
        return callable(value)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is Ellipsis else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(is_of, value, kinds))
    if origin is not None and issubclass(origin, Mapping):
        key, item = arguments
        return isinstance(value, origin) and all(is_of(one, key) and is_of(value[one], item) for one in value)
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(is_of(one, arguments[0]) for one in value)
    if hint in (int, float):
        is_number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return is_number and (isinstance(value, int) or math.isfinite(value))
    if hint is str:
        return isinstance(value, str) and len(value.splitlines()) <= 1
    return isinstance(value, hint) and not isinstance(value, type)  # a class has what its objects have, but is none


def described(hint: Any) -> str:
    """What is allowed by an annotation, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS or origin is Literal:
        *others, last = _ways(hint)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is Callable:
        return "a function"
    if origin is tuple:
        return f"({', '.join(map(described, arguments))})"
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping of {described(arguments[0])} to {described(arguments[1])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list, each of it {described(arguments[0])}"
    return "anything" if hint is Any else _WORDS.get(hint) or f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}"


def _ways(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    return [way for one in get_args(hint) for way in _ways(one)] if get_origin(hint) in UNIONS else [described(hint)]
