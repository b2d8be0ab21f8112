"""Values against annotations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from rf_repro.core.annotations import is_of

FITS = [
    (1, int), (1, float), (0.5, float), ("x", str), (None, int | None), ("a", Literal["a", "b"]), (Path("x"), str | Path),
    ((1, 2, 3), tuple[int, ...]), ((), tuple[int, ...]), ((1, "x"), tuple[int, str]), ({"a": 1}, Mapping[str, Any]),
    ([1, 2], Sequence[int]), (len, Callable[[Any], int]), (object(), Any),
]  # fmt: skip
DOES_NOT = [
    (True, int), (1.0, int), ("1", float), (float("nan"), float), (float("inf"), float), ("two\nlines", str), (None, int),
    ("c", Literal["a", "b"]), (True, Literal[1, 2]), ([1], tuple[int, ...]), ((1, "x"), tuple[int, ...]), ((1,), tuple[int, str]),
    ({1: 1}, Mapping[str, Any]), ("text", Sequence[str]), (3, Callable[[Any], int]), (Path, Path),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint"), FITS)
def test_it_fits(value: Any, hint: Any) -> None:
    assert is_of(value, hint)


@pytest.mark.parametrize(("value", "hint"), DOES_NOT)
def test_it_does_not(value: Any, hint: Any) -> None:
    assert not is_of(value, hint)
