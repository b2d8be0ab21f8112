"""Understanding at tiny scale: exact-match scoring of answers to the scenes question suite. It is no MMMU and is never
printed as such: its types only mirror the groups of the paper's benchmarks (Table 2)."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from rf_repro.core.hashing import content_hash
from rf_repro.core.records import EvalResult
from rf_repro.data.scenes.questions import QUESTION_TYPES, QuestionBatch

BENCHMARK = "scenes-questions"
VERSION = 1  # raise it when the same answers can get another score


def score_answers(
    batch: QuestionBatch, answers: Sequence[str], *, step: int | None, weights: str | None
) -> tuple[EvalResult, list[dict[str, Any]]]:
    """An answer is correct when it is the expected one, word for word.

    Args:
        answers: one for each question, in order.
        step, weights: recorded in the result as they are.

    Returns:
        The result and one row a question: tag (its type), prompt, question_id, expected, answer, correct, held_out. Metrics:
        each type's share of correct answers; `overall`, their unweighted mean; and `chance_*`, the same of the best guesser
        that never looks (see `chance`). A type without a question is None, and so then is `overall`.

    Raises:
        ValueError: not as many answers as questions.
    """
    rows = [
        {
            "tag": QUESTION_TYPES[kind],
            "prompt": question,
            "question_id": index,
            "expected": expected,
            "answer": answer,
            "correct": answer == expected,
            "held_out": held_out,
        }
        for index, (kind, question, expected, answer, held_out) in enumerate(
            zip(batch.types.tolist(), batch.questions, batch.answers, answers, batch.held_out.tolist(), strict=True)
        )
    ]
    correct = defaultdict(list)
    for row in rows:
        correct[row["tag"]].append(row["correct"])
    metrics: dict[str, float | None] = {tag: fmean(correct[tag]) if correct[tag] else None for tag in QUESTION_TYPES}
    metrics["overall"] = _overall(metrics)
    guessed = chance(batch)
    missing = {tag: "no question of this type" for tag in QUESTION_TYPES if not correct[tag]}
    if missing:
        missing["overall"] = f"no question of type {', '.join(missing)}"
    result = EvalResult(
        benchmark=BENCHMARK,
        protocol=protocol_id(batch),
        metrics={**metrics, **{f"chance_{tag}": value for tag, value in guessed.items()}},
        n=len(rows),
        expected_n=len(rows),
        missing={**missing, **{f"chance_{tag}": reason for tag, reason in missing.items()}},
        evaluator={"scoring": f"exact match, version {VERSION}"},
        step=step,
        weights=weights,
    )
    return result, rows


def chance(batch: QuestionBatch) -> dict[str, float | None]:
    """Score of each type, and overall, when every question text gets the one answer that is most often right for it.

    No model that ignores the image can do better on this set, however it was trained.
    """
    by_text: dict[str, dict[str, Counter[str]]] = {tag: defaultdict(Counter) for tag in QUESTION_TYPES}
    for kind, question, answer in zip(batch.types.tolist(), batch.questions, batch.answers, strict=True):
        by_text[QUESTION_TYPES[kind]][question][answer] += 1
    scores: dict[str, float | None] = {}
    for tag, texts in by_text.items():
        asked = sum(counts.total() for counts in texts.values())
        scores[tag] = sum(max(counts.values()) for counts in texts.values()) / asked if asked else None
    return {**scores, "overall": _overall(scores)}


def protocol_id(batch: QuestionBatch) -> str:
    """`scenes-questions-v<version>-` and 8 hex digits, which stand for the questions, their answers and their images."""
    digest = hashlib.sha256(np.ascontiguousarray(batch.images).tobytes()).hexdigest()
    asked = [batch.types.tolist(), batch.questions, batch.answers, list(batch.images.shape), digest]
    return f"{BENCHMARK}-v{VERSION}-{content_hash(asked)[:8]}"


def _overall(scores: dict[str, float | None]) -> float | None:
    """The unweighted mean over all types; a mean over fewer would be another number."""
    found = [score for score in scores.values() if score is not None]
    return fmean(found) if len(found) == len(scores) else None
