"""AI2D: multiple-choice questions about diagrams, 3,088 in the test split.

`Item.answer`: the option's index ("0"-"3", as the parquet has it) or letter. `Item.fields`: `options` (list of texts).

Metric: `accuracy`. With text boxes masked by letters or left as they are ("no mask") is the data's business; the paper's
column is inferred to be without mask.

Sources: lmms-eval 0.7.3 tasks/ai2d and api/metrics.py (exact_match); VLMEvalKit utils/multiple_choice.py.

Variants:
    lmms-eval   a capital and a period opening the reply, else all of it; then equal to the letter but for case and ASCII
                punctuation. "(b)" and "B. cat" are right, "b. cat" and "The answer is B" wrong
    vlmevalkit  mcq.py's rules

Deviations: none. `parsed` of "lmms-eval" is None where what is compared is not one of the options' letters.
"""

import re
import string
from collections.abc import Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import accuracies, gold_letter, options_of, paired, scored
from evaluators.understanding.metrics.mcq import vlmevalkit_letter

VARIANTS = ("lmms-eval", "vlmevalkit")
PAPER_VARIANT = "vlmevalkit"  # inferred: 90.3 fits the set without mask
PAPER_METRIC = "vlmevalkit/accuracy"

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    gold, options = gold_letter(item), options_of(item)
    compared = lmms_eval_text(item.reply)
    option = vlmevalkit_letter(item.reply, options)
    results = {
        "lmms-eval": (compared == gold.lower(), compared.upper() if compared.upper() in options else None),
        "vlmevalkit": (option == gold, option),
    }
    return scored(item, results)


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/accuracy`."""
    paired(scores, items)
    return accuracies(scores, VARIANTS)


def lmms_eval_text(reply: str) -> str:
    """What lmms-eval compares with the letter: lower-case, without punctuation."""
    opening = re.match(r"\s*([A-Z])\.", reply)
    return (opening[1] if opening else reply.strip()).lower().translate(_NO_PUNCTUATION)
