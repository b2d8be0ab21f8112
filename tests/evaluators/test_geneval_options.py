"""The five settings: defaults, ranges and reading them from text."""

import pytest

from evaluators.geneval.options import GenEvalOptions
from rf_repro.core.errors import UserError


def test_defaults_are_the_benchmark_s() -> None:
    assert GenEvalOptions.from_mapping({}) == GenEvalOptions(0.3, 0.9, 16, 1.0, 0.1)


def test_any_subset_as_text_or_floats() -> None:
    options = GenEvalOptions.from_mapping({"max_objects": 8.0, "threshold": "0.25", "max_overlap": "1"})
    assert options == GenEvalOptions(threshold=0.25, max_objects=8)
    assert type(options.max_objects) is int
    assert GenEvalOptions.from_mapping({"max_objects": "4"}).max_objects == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", "high"), ("threshold", None), ("threshold", -0.1), ("threshold", "nan"), ("counting_threshold", 1.5),
        ("max_overlap", 1.01), ("max_objects", 0), ("max_objects", 2.5), ("max_objects", "nan"), ("max_objects", "inf"),
        ("position_threshold", -1), ("position_threshold", "inf"),
    ],
)  # fmt: skip
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"geneval option {name}=.*must be"):
        GenEvalOptions.from_mapping({name: value})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="'treshold': unknown; choose from threshold, counting_threshold"):
        GenEvalOptions.from_mapping({"treshold": 0.3})


def test_fractional_number_of_objects_is_refused() -> None:
    with pytest.raises(UserError, match=r"max_objects=3\.0"):
        GenEvalOptions(max_objects=3.0)  # type: ignore[arg-type]
