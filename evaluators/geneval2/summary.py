"""GenEval 2's numbers from the scores of images.

Source: facebookresearch/GenEval2 (a6e82d2), evaluation.py and soft_tifa_analysis.py: skills are means over questions, atomicities
means of geometric means over prompts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from evaluators.geneval2.data import SKILLS, Item
from evaluators.geneval2.soft_tifa import interval

MEANS = ("soft_tifa_am", "soft_tifa_gm")


def summarize(rows: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> tuple[dict[str, float | None], dict[str, str]]:
    """(metrics, reason for each metric that is None) of rows as `judge.score` makes them; those without a score count nowhere.

    Metrics, fractions: `soft_tifa_am` and `soft_tifa_gm`, means over prompts, each with `_low` and `_high`, a 95% bootstrap over
    prompts; `skill_NAME`, mean score of all questions of the skill; `atomicity_N`, mean GM of the prompts of the atomicity.
    """
    scored = [row for row in rows if not row["failure"]]
    by_skill: dict[str, list[float]] = defaultdict(list)
    by_atomicity: dict[int, list[float]] = defaultdict(list)
    for row in scored:
        by_atomicity[row["atom_count"]].append(row["soft_tifa_gm"])
        for question in row["questions"]:
            by_skill[question["skill"]].append(question["score"])

    metrics: dict[str, float | None] = {}
    for name in MEANS:
        values = [row[name] for row in scored]
        low, high = interval([values]) if values else (None, None)
        metrics |= {name: _mean(values), f"{name}_low": low, f"{name}_high": high}
    metrics |= {f"skill_{skill}": _mean(by_skill[skill]) for skill in SKILLS}
    metrics |= {f"atomicity_{count}": _mean(by_atomicity[count]) for count in sorted({item.atom_count for item in items})}
    reasons = {f"skill_{skill}": "no question of this skill was scored" for skill in SKILLS}
    missing = {name: reasons.get(name, "no prompt was scored") for name, value in metrics.items() if value is None}
    return metrics, missing


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
