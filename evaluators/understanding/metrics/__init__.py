"""Parsers and metrics of the eight understanding benchmarks: what a reply is worth, by every implementation in use.

Published numbers come from implementations that read the same reply differently. Each benchmark's module therefore scores
a reply under several named variants, and `aggregate` names every metric `variant/metric`. A module has:

    VARIANTS        its variants' names
    PAPER_VARIANT   the variant the paper's column is taken to be ...
    PAPER_METRIC    ... and its metric's name in `aggregate`'s result. Both are inferred: the paper names neither harness
                    nor metric, but for MME ("mean accuracy over all perception and cognition questions"). Where replies
                    keep to the format asked for, the variants agree, so the choice of metric matters more than the parser
    score(item)     -> Scored
    aggregate(scored, items) -> {name: float in [0, 1] | None}: None where the items at hand do not allow the metric

Variants are named after the implementation they follow, on the path without a judge model:

    official                the benchmark's own scripts
    lmms-eval               lmms-eval 0.7.3 (PyPI); tests compare with its functions, and with vectors recorded from it
    lmms-eval-0.7.2         where 0.7.3 changed something; 0.7.2 behaves as commit 75571cf does
    lmms-eval-0.6.1         RealWorldQA only, which changed in 0.7
    vlmevalkit              VLMEvalKit without a judge ("exact_matching"): mcq.py's and yesno.py's rules, as at f71d473
    bagel                   BAGEL's eval/vlm
    *-seeded                the same, with a random fallback replaced by a choice seeded with the item's key

Deviations from those implementations that hold everywhere (each module lists its own, and each has a test):

    random fallbacks        never random: unparsed is wrong, or seeded per item. Either way it counts in
                            `parse_failure_rate/VARIANT`
    judge models            VLMEvalKit asks a judge, by default gpt-4o-mini, about what its rules leave unparsed, and takes a
                            random letter when the judge's answer does not parse three times. Here unparsed is wrong, as
                            VLMEvalKit does without a key
    scale                   fractions in [0, 1], never percent; MME's sums as shares of their maxima
    rounding                none (lmms-eval rounds MMMU to 5 decimals, BAGEL to 3)
    replies                 must be strings; VLMEvalKit's str() of missing predictions ("nan") has no counterpart
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """One answered question.

    Attributes:
        key: unique in its benchmark; seeds the `-seeded` variants.
        answer: the gold answer as the dataset has it (each module says in which spellings).
        reply: the model's reply, unaltered.
        fields: what else of the dataset's row the metric needs (each module says which).
    """

    key: str
    answer: Any
    reply: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """One scored reply.

    Attributes:
        key: the item's.
        correct: per variant, correctness in [0, 1].
        parsed: per variant, what was parsed; None is a parse failure (`correct` may still be 1 where the variant falls
            back to a guess).
    """

    key: str
    correct: dict[str, float]
    parsed: dict[str, str | None]
