"""Soft-TIFA: the mean probability of the right answers to a prompt's questions, and how far it would move with other prompts.

Legend: B resamples, P prompts of one group.

Source: arXiv 2512.16853; facebookresearch/GenEval2 (a6e82d2), evaluation.py.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from rf_repro.core.hashing import derive_seed

RESAMPLES = 10_000
TAIL = 0.025  # probability on each side of an interval


def arithmetic_mean(scores: Sequence[float]) -> float:
    """Soft-TIFA AM of one image: the mean over its questions. Raises ValueError without any."""
    return fmean(scores)


def geometric_mean(scores: Sequence[float]) -> float:
    """Soft-TIFA GM of one image: one question with probability 0 makes it 0.

    Means of logarithms in float64: a product of ten small probabilities would lose digits. Raises ValueError without any score.
    """
    if not scores:
        raise ValueError("no score: a geometric mean needs one")
    if min(scores) <= 0:
        return 0.0
    return math.exp(fmean(map(math.log, scores)))


def interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95% percentile bootstrap of the unweighted mean of the groups' means: prompts are drawn with replacement in each group.

    Args:
        groups: a score of each prompt (the mean over its images, where there are several), by task; a single group is a mean
            over all prompts. None is empty.
    """
    rng = np.random.default_rng(derive_seed("bootstrap"))
    means_B = np.zeros(RESAMPLES)
    for group in groups:
        scores_P = np.asarray(group, np.float64)
        drawn_BP = rng.multinomial(len(scores_P), np.full(len(scores_P), 1 / len(scores_P)), size=RESAMPLES)
        means_B += drawn_BP @ scores_P / len(scores_P)
    low, high = np.quantile(means_B / len(groups), [TAIL, 1 - TAIL])
    return float(low), float(high)
