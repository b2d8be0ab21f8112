"""DocVQA: short answers from scanned documents, by average normalised Levenshtein similarity (ANLS).

`Item.answer`: list of accepted texts (a list's literal is read too). No fields.

Metric: `anls`, the mean over questions of 1 - the smallest distance to an accepted text, and 0 below 0.5 (0.5 itself stays).

Sources: the benchmark's definition (Biten et al. 2019); lmms-eval 0.7.3 api/metrics.py; VLMEvalKit utils/vqa_eval.py.

Variants:
    lmms-eval           distance of both texts, lower-cased and spaces collapsed, over the longer *unaltered* text's length
                        (upper-cased): spaces around a reply make it better
    vlmevalkit          the same
    vlmevalkit-0a04a1d  over the longer *collapsed* text's length, as that commit has it

Deviations: none. The test split's answers are on the benchmark's server; only validation can be scored here.
`parsed` is the collapsed reply, None where it is empty.
"""

from collections.abc import Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import accuracies, gold_answers, paired, scored

VARIANTS = ("lmms-eval", "vlmevalkit", "vlmevalkit-0a04a1d")
PAPER_VARIANT = "lmms-eval"  # inferred: validation split
PAPER_METRIC = "lmms-eval/anls"

THRESHOLD = 0.5


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    answers = gold_answers(item.answer)
    raw = thresholded([distance(answer, item.reply, collapsed_length=False) for answer in answers])
    collapsed = thresholded([distance(answer, item.reply, collapsed_length=True) for answer in answers])
    parsed = collapse(item.reply) or None
    return scored(item, {"lmms-eval": (raw, parsed), "vlmevalkit": (raw, parsed), "vlmevalkit-0a04a1d": (collapsed, parsed)})


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/anls`."""
    paired(scores, items)
    return accuracies(scores, VARIANTS, "anls")


def thresholded(distances: Sequence[float]) -> float:
    """1 - the smallest distance; 0 where that is below the threshold."""
    similarity = 1 - min(distances)
    return similarity if similarity >= THRESHOLD else 0.0


def distance(answer: str, reply: str, collapsed_length: bool) -> float:
    """Edits from one collapsed text to the other, over the longer text's length; 0 of two empty texts."""
    gold, given = collapse(answer), collapse(reply)
    length = max(len(gold), len(given)) if collapsed_length else max(len(answer.upper()), len(reply.upper()))
    return levenshtein(gold, given) / length if length else 0.0


def collapse(text: str) -> str:
    return " ".join(text.lower().split())


def levenshtein(first: str, second: str) -> int:
    """Insertions, deletions and substitutions between two texts."""
    row = list(range(len(second) + 1))
    for count, one in enumerate(first, 1):
        previous, row[0] = row[0], count
        for index, other in enumerate(second, 1):
            previous, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, previous + (one != other))
    return row[-1]
