"""What several benchmarks share: gold answers in their spellings, seeded choices, means by variant."""

import hashlib
import string
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from evaluators.understanding.literals import listed_texts
from evaluators.understanding.metrics import Item, Scored
from rf_repro.core.errors import UserError

LETTERS = string.ascii_uppercase


def options_of(item: Item) -> dict[str, str]:
    """`fields["options"]` (a sequence of texts, in order) as {letter: text}; {} where the row has none."""
    options = item.fields.get("options") or ()
    if isinstance(options, str) or len(options) > len(LETTERS):
        raise UserError(f"{item.key}: options={options!r}: must be a list of at most {len(LETTERS)} texts")
    return {letter: str(text) for letter, text in zip(LETTERS, options, strict=False)}  # there are more letters than options


def gold_letter(item: Item) -> str:
    """The gold letter, from "B", "b", "(B)" or the option's index from 0 (1, "1")."""
    answer = str(item.answer).strip().strip("()").upper()
    if answer.isdecimal() and len(answer) <= 2 and int(answer) < len(LETTERS):
        return LETTERS[int(answer)]
    if len(answer) == 1 and answer in LETTERS:
        return answer
    raise UserError(f"{item.key}: answer={item.answer!r}: must be an option's letter or its index from 0")


def gold_yes_no(item: Item) -> str:
    """ "yes" or "no", from "Yes", "no.", 1, "0", True."""
    answer = str(item.answer).strip().strip(".").lower()
    if answer in ("yes", "1", "true"):
        return "yes"
    if answer in ("no", "0", "false"):
        return "no"
    raise UserError(f"{item.key}: answer={item.answer!r}: must be yes or no (or 1, 0)")


def seeded_choice(key: str, choices: Sequence[str]) -> str:
    """One of `choices`, drawn with SHA-256 of `key`: the same on every machine, whatever else is scored beside it."""
    digest = hashlib.sha256(key.encode()).digest()
    return choices[int.from_bytes(digest[:8], "big") % len(choices)]


def scored(item: Item, results: Mapping[str, tuple[float | bool, str | None]]) -> Scored:
    """`Scored` from {variant: (correct, parsed)}."""
    return Scored(
        item.key,
        {variant: float(correct) for variant, (correct, _) in results.items()},
        {variant: parsed for variant, (_, parsed) in results.items()},
    )


def mean(values: Sequence[float]) -> float | None:
    """Their mean; None of none."""
    return sum(values) / len(values) if values else None


def paired(scores: Sequence[Scored], items: Sequence[Item]) -> list[tuple[Scored, Item]]:
    """Scores beside their items. Raises UserError where the two are not of the same questions, in one order."""
    if [score.key for score in scores] != [item.key for item in items]:
        raise UserError("scores and items differ: both must be of the same questions, in the same order")
    return list(zip(scores, items, strict=True))


def accuracies(scores: Sequence[Scored], variants: Sequence[str], name: str = "accuracy") -> dict[str, float | None]:
    """`VARIANT/NAME`, the mean over all questions, and `parse_failure_rate/VARIANT`."""
    metrics: dict[str, float | None] = {}
    for variant in variants:
        metrics[f"{variant}/{name}"] = mean([score.correct[variant] for score in scores])
        metrics[f"parse_failure_rate/{variant}"] = mean([float(score.parsed[variant] is None) for score in scores])
    return metrics


def means_by(pairs: Sequence[tuple[Scored, Item]], variant: str, group: Callable[[Item], Hashable]) -> dict[Hashable, float]:
    """Mean correctness of each group of questions, in order of first appearance."""
    groups: dict[Hashable, list[float]] = {}
    for score, item in pairs:
        groups.setdefault(group(item), []).append(score.correct[variant])
    return {name: sum(values) / len(values) for name, values in groups.items()}


def all_right_by(pairs: Sequence[tuple[Scored, Item]], variant: str, group: Callable[[Item], Hashable]) -> float | None:
    """Share of the groups of questions that are right altogether; None of no group."""
    return mean([float(value == 1) for value in means_by(pairs, variant, group).values()])


def field_of(item: Item, name: str) -> Any:
    """`fields[name]`. Raises UserError where the row lacks it."""
    if name not in item.fields:
        raise UserError(f"{item.key}: the row has no {name}, which this benchmark's metric needs")
    return item.fields[name]


def gold_answers(answer: object) -> list[str]:
    """Gold answers as a list, from a text, a list, or a list's literal."""
    if isinstance(answer, str) and answer.startswith("[") and answer.endswith("]"):
        return listed_texts(answer) or [answer]
    return [str(one) for one in answer] if isinstance(answer, list | tuple) else [str(answer)]
