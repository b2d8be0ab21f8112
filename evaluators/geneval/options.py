"""The five settings of GenEval's rules. The defaults are the benchmark's; other values are another protocol."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from evaluators.fields import check_fields, refusal
from rf_repro.core.errors import UserError

OPTION = "geneval option "  # before a name in a message


@dataclass(frozen=True)
class GenEvalOptions:
    """Source: `--options` of the official script (djghosh13/geneval, af4902f).

    Raises:
        UserError: a value outside its range.
    """

    threshold: float = 0.3  # a detection counts when its score is strictly greater
    counting_threshold: float = 0.9  # the same, for every class of a prompt tagged "counting"
    max_objects: int = 16  # best-scored detections kept per class, before suppression
    max_overlap: float = 1.0  # of two boxes of a class with this IoU or more the better stays; exactly 1 keeps both
    position_threshold: float = 0.1  # share of both objects' sizes by which centres must differ to be apart

    def __post_init__(self) -> None:
        check_fields(self, OPTION)
        for name in ("threshold", "counting_threshold", "max_overlap"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        _require(self.max_objects >= 1, "max_objects", self.max_objects, "an integer >= 1")
        _require(0 <= self.position_threshold < math.inf, "position_threshold", self.position_threshold, "finite and >= 0")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GenEvalOptions":
        """Options from any subset of them, as numbers or as text (`{"max_objects": "8"}`, `{"max_objects": 8.0}`).

        Raises:
            UserError: an unknown name, or a value that is no number or out of range.
        """
        names = [item.name for item in fields(cls)]
        numbers: dict[str, float] = {}
        for name, value in values.items():
            if name not in names:
                raise UserError(f"{OPTION}{name!r}: unknown; choose from {', '.join(names)}")
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                raise UserError(f"{OPTION}{name}={value!r}: must be a number") from None
        maximum = numbers.pop("max_objects", cls.max_objects)
        _require(maximum == maximum // 1, "max_objects", maximum, "an integer >= 1")  # false for NaN and infinity
        return cls(**numbers, max_objects=int(maximum))

    def score_threshold(self, tag: str) -> float:
        """The threshold that the detections of a prompt with this tag have to exceed."""
        return self.counting_threshold if tag == "counting" else self.threshold


def _require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise refusal(name, value, allowed, OPTION)
