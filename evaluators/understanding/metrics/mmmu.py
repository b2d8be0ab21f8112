"""MMMU: multiple-choice and open questions of 30 subjects.

`Item.answer`: the letter, or the open answer: a text, a list of texts, or such a list's literal as the parquet has it.
`Item.fields`: `question_type` ("multiple-choice", or another: open), `options` (list of texts; [] for open questions) and
`subject` ("Accounting", ...; without it there are no metrics by domain).

Sources: MMMU-Benchmark/MMMU eval/eval_utils.py (its random fallback: issue #72); lmms-eval 0.7.3 tasks/mmmu and
tasks/_task_utils/mmmu_mcq_utils.py; VLMEvalKit utils/multiple_choice.py; BAGEL eval/vlm/eval/mmmu.

Variants:
    official            a letter as "(A)"; then " A "; then, in replies of more than five words, an option's text; of several
                        the one that stands last. Open questions: key phrases and numbers, see `open_candidates`
    official-seeded     the same; where no letter is found a seeded choice, where the original's is random
    lmms-eval           as official, but "A " needs no space before it, so "DNA is" reads A, and "A." is tried before texts.
                        Open questions as official, but a gold list's literal stays one text
    lmms-eval-seeded    the same with a seeded choice
    lmms-eval-0.7.2     as lmms-eval, but all open questions are wrong: candidates' characters are compared one by one (issue
                        #1436, mended by PR #1471)
    lmms-eval-0.7.2-seeded  the same with a seeded choice
    vlmevalkit          letters by mcq.py's rules. Open questions become two options, A = the gold answer and B = "Other
                        Answers" (issues #110, #1617): right where the gold text is in a reply of at most twice their length
    bagel               the reply's first character if it is an option's letter; then an option's text, case kept; of an
                        empty reply "C"; else the reply itself, wrong. Open questions as official

Deviations from the originals, each tested:
    - "official" and "lmms-eval" count as wrong what their originals answer at random (seed 42 at import in the official
      script and BAGEL's, none in lmms-eval): `-seeded` guesses, by key.
    - "bagel": an empty reply scores as "C" and counts as a parse failure. Its doubled first image and ten tokens are the
      protocol's business, not the parser's.
    - Domains are reported for all variants; their accuracies are over questions, like the overall one.
"""

import json
import re
from collections.abc import Callable, Sequence

from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.metrics.common import (
    accuracies,
    field_of,
    gold_answers,
    gold_letter,
    mean,
    options_of,
    paired,
    scored,
    seeded_choice,
)
from evaluators.understanding.metrics.mcq import vlmevalkit_letter
from rf_repro.core.errors import UserError

VARIANTS = (
    "official",
    "official-seeded",
    "lmms-eval",
    "lmms-eval-seeded",
    "lmms-eval-0.7.2",
    "lmms-eval-0.7.2-seeded",
    "vlmevalkit",
    "bagel",
)
PAPER_VARIANT = "official"  # inferred: validation accuracy; chain of thought or not is unknown
PAPER_METRIC = "official/accuracy"

DOMAINS = {
    "art_and_design": ("Art", "Art_Theory", "Design", "Music"),
    "business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "health_and_medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "humanities_and_social_science": ("History", "Literature", "Sociology", "Psychology"),
    "tech_and_engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}

Candidate = str | float  # of an open answer: a lower-cased text, or a number rounded to 2 decimals
_EDGE_PUNCTUATION = ",.!?;:'"


def score(item: Item) -> Scored:
    """The reply to one question under every variant."""
    return scored(item, _score_letters(item) if is_multiple_choice(item) else _score_open(item))


def aggregate(scores: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]:
    """`VARIANT/accuracy`, over all questions, and `/multiple_choice`, `/open` and `/DOMAIN` (None without such questions)."""
    pairs = paired(scores, items)
    metrics = accuracies(scores, VARIANTS)
    kinds: dict[str, Callable[[Item], bool]] = {
        "multiple_choice": is_multiple_choice,
        "open": lambda item: not is_multiple_choice(item),
    }
    for domain, subjects in DOMAINS.items():
        kinds[domain] = lambda item, subjects=subjects: item.fields.get("subject") in subjects  # type: ignore[misc]
    for kind, holds in kinds.items():
        chosen = [one for one, item in pairs if holds(item)]
        for variant in VARIANTS:
            metrics[f"{variant}/{kind}"] = mean([one.correct[variant] for one in chosen])
    return metrics


def is_multiple_choice(item: Item) -> bool:
    return field_of(item, "question_type") == "multiple-choice"


def _score_letters(item: Item) -> dict[str, tuple[bool, str | None]]:
    options, gold = options_of(item), gold_letter(item)
    if not options:
        raise UserError(f"{item.key}: a multiple-choice question without options")
    guess = seeded_choice(item.key, list(options))
    results: dict[str, tuple[bool, str | None]] = {}
    lmms_eval = letter(item.reply, options, loose=True)
    for variant, parsed in (
        ("official", letter(item.reply, options)),
        ("lmms-eval", lmms_eval),
        ("lmms-eval-0.7.2", lmms_eval),
    ):
        results[variant] = (parsed == gold, parsed)
        results[f"{variant}-seeded"] = ((guess if parsed is None else parsed) == gold, parsed)
    parsed = vlmevalkit_letter(item.reply, options)
    results["vlmevalkit"] = (parsed == gold, parsed)
    picked = bagel_letter(item.reply, options)
    results["bagel"] = (picked == gold, picked if picked in options and item.reply.strip() else None)
    return results


def _score_open(item: Item) -> dict[str, tuple[bool, str | None]]:
    candidates = open_candidates(item.reply)
    shown = json.dumps(candidates, ensure_ascii=False) if item.reply.strip() else None
    official = open_is_right(gold_answers(item.answer), candidates)
    as_is = item.answer if isinstance(item.answer, list) else [str(item.answer)]
    lmms_eval = open_is_right(as_is, candidates)
    collapsed = open_is_right(as_is, list(str(candidates[0])))
    gold = str(item.answer)
    options = {"A": gold, "B": "Other Answers"}
    parsed = vlmevalkit_letter(item.reply, options)
    gold_option = gold if len(gold) == 1 and "A" <= gold <= "Z" else "A"
    return {
        "official": (official, shown),
        "official-seeded": (official, shown),
        "lmms-eval": (lmms_eval, shown),
        "lmms-eval-seeded": (lmms_eval, shown),
        "lmms-eval-0.7.2": (collapsed, shown),
        "lmms-eval-0.7.2-seeded": (collapsed, shown),
        "vlmevalkit": (parsed == gold_option, parsed),
        "bagel": (official, shown),
    }


def letter(reply: str, options: dict[str, str], loose: bool = False) -> str | None:
    """The letter that the official parser reads, or lmms-eval's (`loose`); None where they take a random one.

    Both break ties between letters by where each stands last, the loose one by where " A " does: letters found only as the
    end of a word all count as absent, and the first of the options wins.
    """
    for mark in _EDGE_PUNCTUATION:  # one mark after another: "A.'" keeps its period
        reply = reply.strip(mark)
    text = f" {reply} "
    lowered = text.lower()
    bracketed = [(name, f"({name})", text) for name in options if f"({name})" in text]
    if loose:
        bare = [(name, f" {name} ", text) for name in options if f"{name} " in text]
        bare = bare or [(name, f" {name} ", text) for name in options if f"{name}." in text]
    else:
        bare = [(name, f" {name} ", text) for name in options if f" {name} " in text]
    found = bracketed or bare
    if not found and len(text.split()) > 5:
        found = [(name, option.lower(), lowered) for name, option in options.items() if option.lower() in lowered]
    if not found:
        return None
    return max(found, key=lambda one: one[2].rfind(one[1]))[0]  # max keeps the first of equals


def bagel_letter(reply: str, options: dict[str, str]) -> str:
    """What BAGEL submits for a reply: a letter, or the reply itself."""
    text = reply.strip()
    if len(text) == 1:
        return text
    if not text:
        return "C"
    if text[0] in options:
        return text[0]
    return next((name for name, option in options.items() if option.strip() in text), text)


_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_BEFORE_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_GROUPED = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_PLAIN = re.compile(r"-?(?:\d*\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


def open_candidates(reply: str) -> list[Candidate]:
    """Texts and numbers that may be the answer to an open question: the key phrases' and those of the numbers in them.

    The reply is lower-cased before it is split into sentences at capitals, so it is split at line ends only. From each
    line the shortest rest after a word such as "is" is its key phrase; "=" is such a word in the last line only. No key
    phrase: the whole reply. (Order is that of appearance; the original's is a set's.)
    """
    whole = reply.strip().strip(".").lower()
    parts = _SENTENCE_END.split(whole)
    phrases = []
    for index, part in enumerate(parts):
        words = (*_BEFORE_ANSWER, "=") if index == len(parts) - 1 else _BEFORE_ANSWER
        phrase = ""
        for word in words:
            if word in part:
                rest = part.rsplit(word, 1)[-1].strip()
                if not phrase or len(rest) < len(phrase):  # an empty rest does not stand: the next one replaces it
                    phrase = rest
        if phrase and phrase not in tuple(_EDGE_PUNCTUATION):
            phrases.append(phrase)
    phrases = phrases or [whole]
    numbers = [number for phrase in phrases for kind in (_GROUPED, _SCIENTIFIC, _PLAIN) for number in kind.findall(phrase)]
    return list(dict.fromkeys(one for text in (*phrases, *numbers) for one in normalized(text)))


def normalized(text: str) -> list[Candidate]:
    """A number rounded to 2 decimals, commas dropped; otherwise the lower-cased text, one character with a space on a side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def open_is_right(answers: Sequence[str], candidates: Sequence[Candidate]) -> bool:
    """Whether a gold text is part of a candidate text, or a candidate number equals a gold number."""
    gold = [one for answer in answers for one in normalized(answer)]
    texts = [one for one in gold if isinstance(one, str)]
    return any(
        any(text in candidate for text in texts) if isinstance(candidate, str) else candidate in gold for candidate in candidates
    )
