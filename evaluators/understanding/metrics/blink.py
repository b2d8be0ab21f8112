"""BLINK: multiple-choice questions of 14 visual tasks, on one to four images.

`Item.answer`: "(B)" or "B". `Item.fields`: `options` (list of texts) and `sub_task` (for the macro average).

Metrics: `accuracy`, the mean over questions (VLMEvalKit's "Overall"); `macro_accuracy`, the mean of the tasks' accuracies
(lmms-eval's group score).

Sources: lmms-eval 0.7.3 and 0.7.2 tasks/blink; VLMEvalKit utils/multiple_choice.py.

Variants:
    lmms-eval        a first line of at most four characters that is little but a letter; then the last "answer is (B)"; then
                     the last "(B)"; then a leading letter, even of a word. Only the question's own letters, in either case
    lmms-eval-0.7.2  the first letter of the reply, whatever it is: "The answer is B." reads T
    vlmevalkit       mcq.py's rules

Deviations: none in parsing. Both averages are given for every variant; the harnesses print one.
"""

import re
from collections.abc import Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import (
    LETTERS,
    accuracies,
    field_of,
    gold_letter,
    mean,
    means_by,
    options_of,
    paired,
    scored,
)
from evaluators.understanding.metrics.mcq import vlmevalkit_letter

VARIANTS = ("lmms-eval", "lmms-eval-0.7.2", "vlmevalkit")
PAPER_VARIANT = "vlmevalkit"  # inferred: "overall" over all questions
PAPER_METRIC = "vlmevalkit/accuracy"

_FIRST_LINE = 4  # characters


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    gold, options = gold_letter(item), options_of(item)
    parsed = {
        "lmms-eval": stated_letter(item.reply, "".join(options) or LETTERS),
        "lmms-eval-0.7.2": first_letter(item.reply),
        "vlmevalkit": vlmevalkit_letter(item.reply, options),
    }
    return scored(item, {variant: (value == gold, value) for variant, value in parsed.items()})


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/accuracy`, `/macro_accuracy` and the accuracy of each task, `/TASK`."""
    pairs = paired(scores, items)
    metrics = accuracies(scores, VARIANTS)
    for variant in VARIANTS:
        by_task = means_by(pairs, variant, lambda item: str(field_of(item, "sub_task")))
        metrics[f"{variant}/macro_accuracy"] = mean(list(by_task.values()))
        metrics.update({f"{variant}/{task}": value for task, value in by_task.items()})
    return metrics


def first_letter(reply: str) -> str | None:
    """The first letter, past spaces and opening brackets; None where something else comes first."""
    match = re.match(r"[(\s]*([A-Z])", reply.strip(), re.IGNORECASE)
    return match[1].upper() if match else None


def stated_letter(reply: str, letters: str) -> str | None:
    """The letter stated by a reply, short or in prose; only `letters` count.

    "answer" need not be a word of its own, nor be followed by "is": "my answer (b)" reads B, "answer a question" A.
    """
    text = reply.strip()
    one = f"[{re.escape(letters)}]"
    first_line = text.split("\n", 1)[0].strip()
    if len(first_line) <= _FIRST_LINE:
        terse = re.fullmatch(rf"\(?({one})\)?[.\s:,)]*", first_line, re.IGNORECASE)
        if terse:
            return terse[1].upper()
    statements = re.findall(rf"answers?(?:\s+is)?\s*[:-]?\s*\(?({one})\)?(?![A-Za-z])", text, re.IGNORECASE)
    statements = statements or re.findall(rf"\(({one})\)", text)
    if statements:
        return str(statements[-1]).upper()
    leading = re.match(rf"[(\s]*({one})", text, re.IGNORECASE)
    return leading[1].upper() if leading else None
