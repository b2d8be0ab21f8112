"""RealWorldQA: questions about everyday photographs, some with lettered options in the question, some open.

`Item.answer`: a letter, or a word or number. `Item.fields`: `options` (list of texts; without it they are read from the lines
"A. ..." of `question`).

Metric: `accuracy`, over all questions; `multiple_choice` and `open` are its parts (gold of A-D or not).

Sources: lmms-eval 0.7.3 and 0.6.1 tasks/realworldqa and tasks/_task_utils/mcq_extract.py; VLMEvalKit
utils/multiple_choice.py.

Variants:
    lmms-eval        gold A-D: of many formats the most trusted: a letter opening the reply, closing it, after "the answer is",
                     in brackets, before ".", ":", ")" or a space, anywhere; of equals the one furthest back.
                     Other gold: equal but for case and final periods
    lmms-eval-0.6.1  gold A-D too: equal but for case and final periods. "B. Left" is wrong
    vlmevalkit       mcq.py's rules. Without options they read nothing: open questions are wrong

Deviations:
    - VLMEvalKit's own TSV may give options to questions that the original release leaves open; pass them as `options` and
      the letter as `answer`.
    - None in parsing: lmms-eval looks for A-D also where the question offers fewer, and so does this.
"""

import re
from collections.abc import Iterator, Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import LETTERS, accuracies, mean, options_of, paired, scored
from evaluators.understanding.metrics.mcq import vlmevalkit_letter

VARIANTS = ("lmms-eval", "lmms-eval-0.6.1", "vlmevalkit")
PAPER_VARIANT = "lmms-eval"  # inferred
PAPER_METRIC = "lmms-eval/accuracy"

_PHRASES = (
    *(f"{what}answer is" for what in ("", "the ", "correct ", "the correct ", "best ", "the best ", "my ")),
    *(f"{what}option is" for what in ("correct ", "the correct ", "best ", "the best ")),
    *(f"{what}choice is" for what in ("", "the ", "correct ", "the correct ", "my ")),
    "i choose",
    "i select",
    "i pick",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
)


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    gold = str(item.answer).strip()
    same = exact(item.reply, gold)
    plain = item.reply.strip().rstrip(".") or None
    parsed = ranked_letter(item.reply) if is_multiple_choice(item) else plain
    options = options_of(item) or options_in(str(item.fields.get("question", "")))
    option = vlmevalkit_letter(item.reply, options)
    return scored(
        item,
        {
            "lmms-eval": (parsed == gold.upper() if is_multiple_choice(item) else same, parsed),
            "lmms-eval-0.6.1": (same, plain),
            "vlmevalkit": (option == gold, option),
        },
    )


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/accuracy`, `/multiple_choice` and `/open`."""
    pairs = paired(scores, items)
    metrics = accuracies(scores, VARIANTS)
    for variant in VARIANTS:
        for name, kind in (("multiple_choice", True), ("open", False)):
            chosen = [one.correct[variant] for one, item in pairs if is_multiple_choice(item) is kind]
            metrics[f"{variant}/{name}"] = mean(chosen)
    return metrics


def is_multiple_choice(item: Item) -> bool:
    return str(item.answer).strip().upper() in ("A", "B", "C", "D")


def exact(reply: str, gold: str) -> bool:
    return reply.lower().strip().rstrip(".") == gold.lower()


def options_in(question: str) -> dict[str, str]:
    """Options that follow the question, one a line: "A. Left"."""
    found = re.findall(r"^\s*([A-Z])[.)]\s+(.*\S)\s*$", question, re.MULTILINE)
    return {letter: text for position, (letter, text) in enumerate(found) if letter == LETTERS[position]}


def ranked_letter(reply: str, letters: str = "ABCD") -> str | None:
    """The letter of the format most trusted; of one format, the one that stands last; of equals, the first found."""
    text = reply.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    candidates = list(_candidates(f" {text} ", letters))
    if not candidates:
        return max((one for one in letters if one in text), key=text.rfind, default=None)
    return max(candidates, key=lambda one: one[:2])[2]


def _candidates(text: str, letters: str) -> Iterator[tuple[int, int, str]]:
    """(trust, position, letter) of every format found, in the order in which ties are broken."""
    for trust, pattern in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        for one in letters:
            if pattern.format(one) in text:
                yield trust, text.rfind(pattern.format(one)), one
    lowered = text.lower()
    for phrase in _PHRASES:
        start = lowered.find(phrase)
        if start != -1:
            for one in letters:
                position = text.find(one, start + len(phrase))
                if position != -1:
                    yield 7, position, one
    stripped = text.strip()
    for one in letters:
        if stripped.startswith(one) and not stripped[1:2].isalpha():
            yield 10, 0, one
    for one in letters:
        if stripped.endswith(one) and not stripped[-2:-1].isalpha():
            yield 9, len(text) - 1, one
