"""MME: two yes/no questions an image, ten perception and four cognition tasks.

`Item.answer`: "Yes"/"No". `Item.fields`: `category` (the task, as in the data: "OCR", "code_reasoning", ...) and `question_id`
(the image's: two questions share it within a task).

Metrics: `question_accuracy`, the mean over questions (the paper's MME*); `macro_accuracy`, the mean of the 14 tasks'
accuracies; `accuracy_plus`, the share of images with both questions right; `perception_of_2000`, `cognition_of_800`,
`sum_of_2800`, the standard sums of accuracy + accuracy_plus (100 each a task) as shares of their maxima.

Sources: MME's eval_tool/calculation.py, as in BAGEL's eval/vlm/eval/mme; lmms-eval 0.7.3 tasks/mme; VLMEvalKit
utils/yorn.py.

Variants:
    official    lower-cased; "yes", else "no", in the first four characters
    lmms-eval   the same after stripping spaces and dropping periods; a single "y" or "n" counts. "Not sure" and "nothing"
                read no; "The answer is yes" is a parse failure
    vlmevalkit  yes or no as a word, not both (yesno.py); else wrong
    bagel       line ends dropped, 不是 and 否 to No, 是 to Yes, true to yes, false to no, other Chinese dropped; then official

Deviations:
    - The official script and BAGEL keep replies in tab-separated lines: a reply with a tab is left out of their accuracy,
      and a carriage return breaks the pairs. Here both are characters like others.
    - Sums and macro_accuracy are None unless all their tasks are there, accuracy_plus and sums unless every image has both
      its questions: lmms-eval raises, VLMEvalKit multiplies the first two.
"""

import re
from collections import Counter
from collections.abc import Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import (
    accuracies,
    all_right_by,
    field_of,
    gold_yes_no,
    means_by,
    paired,
    scored,
)
from evaluators.understanding.metrics.yesno import vlmevalkit_yes_no

VARIANTS = ("official", "lmms-eval", "vlmevalkit", "bagel")
PAPER_VARIANT = "lmms-eval"  # inferred; the metric is the paper's own words, the parser is not
PAPER_METRIC = "lmms-eval/question_accuracy"

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SIZES = {  # questions a task, 2,374 in all
    "existence": 60, "count": 60, "position": 60, "color": 60, "posters": 294, "celebrity": 340, "scene": 400,
    "landmark": 400, "artwork": 400, "OCR": 40, "commonsense_reasoning": 140, "numerical_calculation": 40,
    "text_translation": 40, "code_reasoning": 40,
}  # fmt: skip


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    gold = gold_yes_no(item)
    parsed = {
        "official": first_four(item.reply.lower()),
        "lmms-eval": lmms_eval_yes_no(item.reply),
        "vlmevalkit": vlmevalkit_yes_no(item.reply),
        "bagel": first_four(bagel_cleaned(item.reply)),
    }
    return scored(item, {variant: (value == gold, value) for variant, value in parsed.items()})


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/METRIC` for the metrics above, and `VARIANT/TASK`, the accuracy of each task at hand."""
    pairs = paired(scores, items)
    metrics = accuracies(scores, VARIANTS, "question_accuracy")
    complete = bool(items) and set(Counter(map(_image, items)).values()) == {2}
    for variant in VARIANTS:
        by_task = {str(task): value for task, value in means_by(pairs, variant, _task).items()}
        plus_by_task = {
            task: all_right_by([(one, item) for one, item in pairs if _task(item) == task], variant, _image) for task in by_task
        }
        both = PERCEPTION + COGNITION
        metrics[f"{variant}/macro_accuracy"] = _mean_of(both, by_task)
        metrics[f"{variant}/accuracy_plus"] = all_right_by(pairs, variant, _image) if complete else None
        for name, tasks in (("perception_of_2000", PERCEPTION), ("cognition_of_800", COGNITION), ("sum_of_2800", both)):
            parts = [_mean_of(tasks, by_task), _mean_of(tasks, plus_by_task)] if complete else [None]
            metrics[f"{variant}/{name}"] = None if None in parts else sum(part for part in parts if part is not None) / 2
        metrics.update({f"{variant}/{task}": value for task, value in by_task.items()})
    return metrics


def first_four(text: str) -> str | None:
    """ "yes", else "no", if in the first four characters; the whole text where it is one of them."""
    return next((word for word in ("yes", "no") if word in text[:4]), None)


def lmms_eval_yes_no(reply: str) -> str | None:
    """Stripped, periods dropped; one letter y or n, or the first four characters."""
    text = reply.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text)
    return first_four(text)


_CHINESE = re.compile("[\u4e00-\u9fa5]")


def bagel_cleaned(reply: str) -> str:
    """BAGEL's text before it is parsed: one lower-case line, some Chinese and logical words translated."""
    text = reply
    for old, new in (("\n", ""), ("不是", "No"), ("是", "Yes"), ("否", "No")):
        text = text.replace(old, new)
    return _CHINESE.sub("", text.lower().replace("true", "yes").replace("false", "no"))


def _task(item: Item) -> str:
    return str(field_of(item, "category"))


def _image(item: Item) -> tuple[str, str]:
    return _task(item), str(field_of(item, "question_id"))


def _mean_of(tasks: Sequence[str], values: dict[str, float] | dict[str, float | None]) -> float | None:
    chosen = [values.get(task) for task in tasks]
    return None if None in chosen else sum(value for value in chosen if value is not None) / len(tasks)
