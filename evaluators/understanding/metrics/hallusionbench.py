"""HallusionBench: yes/no questions in groups, by figure and by question.

`Item.answer`: "1"/"0" or yes/no. `Item.fields`: `category` (VD, VS), `subcategory`, `set_id`, `figure_id`, `question_id`;
`judge_reply` where a judge was asked whether the reply conflicts with the reference answer.

Metrics: `aAcc`, the mean over questions; `fAcc`, the share of figures whose questions are all right; `qAcc`, the share of
questions that are right on all their figures; `average` of the three (VLMEvalKit's leaderboard ranks by it).

Sources: tianyi-lab/HallusionBench utils.py; lmms-eval 0.7.3 tasks/hallusion_bench; VLMEvalKit utils/yorn.py.

Variants:
    judged      a judge's "incorrect", "correct" or, for anything else, unclear. Unclear is right on VS questions without a
                figure (figure_id 0) and wrong elsewhere. Groups by category, subcategory, set and figure (or question); fAcc
                leaves out VS questions without a figure
    lmms-eval   "yes" anywhere: yes; everything else: no. So "eyes" is yes and silence is no; nothing fails to parse. The
                same groups, nothing left out
    vlmevalkit  yes or no as a word, not both (yesno.py); else wrong. Groups by subcategory, set and figure (or question)

Deviations:
    - "judged" is the official metric and lmms-eval's default, which ask GPT-4; here with whichever judge was asked, None
      without. "lmms-eval" is the rule-based variant, which lmms-eval defines but leaves commented out in its yaml.
    - VLMEvalKit's index names no category. Its groups equal lmms-eval's as long as no subcategory is in both categories
      under one set_id (`ocr` is in both).
    - The parts of sets with and without images (951 of 1,129: VLMEvalKit #1037) are the data's business; metrics take what
      they get.
"""

from collections.abc import Callable, Hashable, Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import accuracies, all_right_by, field_of, gold_yes_no, paired, scored
from evaluators.understanding.metrics.yesno import vlmevalkit_yes_no

VARIANTS = ("judged", "lmms-eval", "vlmevalkit")
PAPER_VARIANT = "vlmevalkit"  # inferred: 65.0 beside MMMU 56.2 fits aAcc, not the average of the three
PAPER_METRIC = "vlmevalkit/aAcc"


def score(item: Item) -> Scored:
    """The reply to one question under every variant; `judged` is a wrong parse failure without `judge_reply`."""
    gold = gold_yes_no(item)
    contains = "yes" if "yes" in item.reply.lower() else "no"
    word = vlmevalkit_yes_no(item.reply)
    return scored(item, {"judged": judged(item), "lmms-eval": (contains == gold, contains), "vlmevalkit": (word == gold, word)})


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/aAcc`, `/fAcc`, `/qAcc`, `/average`. `judged` is None unless every item has a judge's reply."""
    pairs = paired(scores, items)
    with_figure = [(one, item) for one, item in pairs if not _without_figure(item)]
    metrics = accuracies(scores, VARIANTS, "aAcc")
    for variant in VARIANTS:
        category = variant != "vlmevalkit"
        metrics[f"{variant}/fAcc"] = all_right_by(
            with_figure if variant == "judged" else pairs, variant, _group("figure_id", category)
        )
        metrics[f"{variant}/qAcc"] = all_right_by(pairs, variant, _group("question_id", category))
        three = [metrics[f"{variant}/{name}"] for name in ("aAcc", "fAcc", "qAcc")]
        metrics[f"{variant}/average"] = None if None in three else sum(value for value in three if value is not None) / 3
    if not all("judge_reply" in item.fields for item in items):
        metrics.update({name: None for name in metrics if "judged" in name.split("/")})
    return metrics


def judged(item: Item) -> tuple[bool, str | None]:
    """Right or not, and "correct", "incorrect" or None (unclear), from the judge's reply; "incorrect" is looked for first."""
    verdict = str(item.fields.get("judge_reply", "")).lower()
    if "incorrect" in verdict:
        return False, "incorrect"
    if "correct" in verdict:
        return True, "correct"
    return "judge_reply" in item.fields and _without_figure(item), None


def _without_figure(item: Item) -> bool:
    return field_of(item, "category") == "VS" and str(field_of(item, "figure_id")) == "0"


def _group(last: str, category: bool) -> Callable[[Item], Hashable]:
    names = ("category",) * category + ("subcategory", "set_id", last)
    return lambda item: tuple(str(field_of(item, name)) for name in names)
