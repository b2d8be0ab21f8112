"""JSON of others: one value, read strictly. No room else calls `json.loads` on what it did not write itself.

Python's own reader takes `NaN`, keeps the last of two equal keys, makes infinity of 1e999, and ends in a RecursionError, or a
ValueError about digits, at what it cannot hold; deep values that it can hold end whatever walks them later.
"""

import json
import math
import re
from typing import Any

from rf_repro.core.untrusted.problems import MAX_DEPTH, MAX_DIGITS, shown

# A text in quotes as a whole, so that the brackets in it do not count; the last one may lack its end.
_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes are UTF-8, with or without its mark.

    Raises:
        ValueError: it is none (JSONDecodeError), or is not UTF-8; NaN, infinity or half a surrogate pair; a key given twice; an
            integer of more than `MAX_DIGITS` digits; nested deeper than `MAX_DEPTH`. Its text is one line, and printable.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 near byte {error.start}") from None
    if _is_deep(text):
        raise ValueError(f"nested too deeply, in more than {MAX_DEPTH} lists or mappings")
    value = json.loads(
        text, parse_constant=_refuse, parse_int=_integer, parse_float=_number, object_pairs_hook=_mapping
    )  # fmt: skip
    if _HALF_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a text holds half a surrogate pair") from None
    return value


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _NESTING.finditer(text):
        first = found.group()[0]
        depth += 1 if first in "[{" else -1 if first in "]}" else 0
        if depth > MAX_DEPTH:
            return True
    return False


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits, more than {MAX_DIGITS}")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{shown(digits)} is too large for a number")
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)!r} is given twice")
    return found
