"""How two judges differ on the same images: by question, before the parent rule, and by file, after it.

A judge's DPG stands beside published mPLUG numbers only through such a comparison, on images that both have scored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rf_repro.core.errors import UserError

Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class Calibration:
    """Of the answers of two judges, the second less the first.

    `kappa`: Cohen's, agreement beyond what their rates of "yes" give by chance; None where both say one thing throughout.
    `difference`: mean over files of the scores' differences, `half_width` of its 95% interval (None for one file);
    `correlation`: Pearson's, of the files' scores; None where either has no spread.
    """

    files: int
    questions: int
    agreement: float
    kappa: float | None
    yes: tuple[float, float]
    scores: tuple[float, float]
    difference: float
    half_width: float | None
    correlation: float | None


def calibrate(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Calibration:
    """Compares two results' items.

    Raises:
        UserError: they are not of the same images and questions, or none has scores of both.
    """
    others = {row["item_id"]: row for row in second}
    if set(others) != {row["item_id"] for row in first}:
        raise UserError("the two results are of different prompts; score the same folder by both judges")
    pairs: list[tuple[int, int]] = []
    scores: list[tuple[float, float]] = []
    for one in first:
        two = others[one["item_id"]]
        if one["correct"] is None or two["correct"] is None:
            continue
        if [image["sha256"] for image in one["images"]] != [image["sha256"] for image in two["images"]]:
            raise UserError(f"{one['item_id']}: the two results are of different images; score one folder by both")
        if one["questions"] != two["questions"]:
            raise UserError(f"{one['item_id']}: the two results are of different questions; give both one compat")
        for left, right in zip(one["images"], two["images"], strict=True):
            pairs += zip(left["answers"], right["answers"], strict=True)
        scores.append((one["correct"], two["correct"]))
    if not scores:
        raise UserError("no file has a score by both judges")
    n = len(pairs)
    agreement = sum(a == b for a, b in pairs) / n
    yes = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    gaps = [b - a for a, b in scores]
    return Calibration(
        files=len(scores),
        questions=n,
        agreement=agreement,
        kappa=None if math.isclose(chance, 1) else (agreement - chance) / (1 - chance),
        yes=yes,
        scores=(fmean(a for a, _ in scores), fmean(b for _, b in scores)),
        difference=fmean(gaps),
        half_width=Z * stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None,
        correlation=_pearson(scores),
    )


def _pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    mean_x, mean_y = fmean(x for x, _ in pairs), fmean(y for _, y in pairs)
    spread_x = math.fsum((x - mean_x) ** 2 for x, _ in pairs)
    spread_y = math.fsum((y - mean_y) ** 2 for _, y in pairs)
    if spread_x == 0 or spread_y == 0:
        return None
    return math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs) / math.sqrt(spread_x * spread_y)
