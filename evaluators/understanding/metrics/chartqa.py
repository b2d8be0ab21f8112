"""ChartQA: short answers about charts, numbers within 5 %.

`Item.answer`: a text. `Item.fields`: `type`, starting with "human" or "augmented" (test: 1,250 of each).

Metrics: `relaxed_overall`, over all questions, `relaxed_human`, `relaxed_augmented`.

Sources: Methani et al. 2020 by way of Masry et al. 2022, Sec. 5.1; lmms-eval 0.7.3 tasks/chartqa; VLMEvalKit
utils/vqa_eval.py.

Variants:
    lmms-eval   the reply as it is: "Yes " is not "Yes" (numbers may have spaces around them)
    vlmevalkit  spaces around it dropped

Both: a number in Python's own spelling, a final "%" dividing by 100, is right within 5 % of the gold number; anything else
must equal the gold text but for case. Hence, in both, "12%" is not "12", "1,000" not "1000", "$5" not "5", "0.0" not "0" (a
gold of 0 is compared as text), "Yes." not "yes" (trailing periods cost Janus-Pro 34 points: VLMEvalKit #948), and "1_000",
"nan" and full-width digits are numbers.

Deviations: none. `parsed` is the reply, or its number; None where it is empty.
"""

from collections.abc import Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import accuracies, field_of, mean, paired, scored

VARIANTS = ("lmms-eval", "vlmevalkit")
PAPER_VARIANT = "lmms-eval"  # inferred: overall relaxed accuracy
PAPER_METRIC = "lmms-eval/relaxed_overall"

TOLERANCE = 0.05


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    gold = str(item.answer)
    replies = {"lmms-eval": item.reply, "vlmevalkit": item.reply.strip()}
    return scored(item, {variant: (relaxed(reply, gold), _shown(reply)) for variant, reply in replies.items()})


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/relaxed_overall`, `/relaxed_human`, `/relaxed_augmented`."""
    pairs = paired(scores, items)
    metrics = accuracies(scores, VARIANTS, "relaxed_overall")
    for variant in VARIANTS:
        for part in ("human", "augmented"):
            chosen = [one.correct[variant] for one, item in pairs if str(field_of(item, "type")).startswith(part)]
            metrics[f"{variant}/relaxed_{part}"] = mean(chosen)
    return metrics


def relaxed(reply: str, gold: str) -> bool:
    """Within 5 % of a gold number other than 0; otherwise equal but for case."""
    given, target = number(reply), number(gold)
    if given is not None and target:
        return abs(given - target) / abs(target) <= TOLERANCE
    return reply.lower() == gold.lower()


def number(text: str) -> float | None:
    """The text as Python's float, a final "%" (or several) dividing by 100; None where it is none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _shown(reply: str) -> str | None:
    value = number(reply)
    return (reply.strip() or None) if value is None else repr(value)
