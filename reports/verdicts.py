"""A claim's verdict, from the paired difference of the two variants it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ablations.claims import Claim
from ablations.grid import Column
from reports.collect import RowScores
from reports.statistics import Interval, paired_difference

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not run"]


@dataclass(frozen=True)
class ClaimResult:
    """`difference` is better minus worse, None with a `reason` when the claim was not tested; `remark` adds to it in words."""

    claim: Claim
    scale: str
    verdict: Verdict
    difference: Interval | None
    reason: str
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """One entry of claims.json. `n` counts the images of both variants over `seeds`."""
        difference = self.difference
        return {
            "id": self.claim.id,
            "table": self.claim.table,
            "statement": self.claim.statement,
            "verdict": self.verdict,
            "difference": difference.estimate if difference else None,
            "low": difference.low if difference else None,
            "high": difference.high if difference else None,
            "scale": self.scale,
            "seeds": list(difference.seeds) if difference else [],
            "n": difference.n if difference else 0,
        }


def judge(claim: Claim, scale: str, column: Column, scores: Mapping[str, RowScores]) -> ClaimResult:
    """Reproduced when the whole 95% interval lies above the claim's minimal difference, not reproduced when it lies below."""
    sides = (scores[claim.better], scores[claim.worse])
    reasons = [f"{side.variant.label}: {side.reason}" for side in sides if side.reason]
    if not reasons and not set(sides[0].results) & set(sides[1].results):
        reasons = [f"{sides[0].variant.label} and {sides[1].variant.label} have no seed in common"]
    if reasons:
        return ClaimResult(claim, scale, "not run", None, "; ".join(reasons))
    difference = paired_difference(sides[0].items, sides[1].items, column.tasks)
    verdict: Verdict = "inconclusive"
    if difference.low > claim.minimum_difference:
        verdict = "reproduced"
    elif difference.high < claim.minimum_difference:
        verdict = "not reproduced"
    return ClaimResult(claim, scale, verdict, difference, "")
