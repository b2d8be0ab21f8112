"""Exact-match scoring of the scenes question suite."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.records import EvalResult
from rf_repro.data.scenes.questions import QUESTION_TYPES, QuestionBatch, SceneQuestions
from rf_repro.worlds.scenes.questions import chance, protocol_id, score_answers

BATCH = SceneQuestions(ScenesConfig()).held_out(20)


def part(batch: QuestionBatch, rows: Sequence[int]) -> QuestionBatch:
    rows = list(rows)
    texts = ([column[row] for row in rows] for column in (batch.questions, batch.answers))
    return QuestionBatch(batch.images[rows], *texts, batch.types[rows], batch.held_out[rows])


def test_right_answers_score_one_and_others_nothing() -> None:
    result, rows = score_answers(BATCH, BATCH.answers, step=7, weights="ema")
    assert {name: value for name, value in result.metrics.items() if not name.startswith("chance_")} == dict.fromkeys(
        [*QUESTION_TYPES, "overall"], 1.0
    )
    assert (result.n, result.expected_n, result.failures, result.missing) == (160, 160, 0, {})
    assert (result.benchmark, result.step, result.weights) == ("scenes-questions", 7, "ema")
    assert EvalResult.from_dict(result.to_dict()) == result
    assert [row["question_id"] for row in rows] == list(range(160))
    wrong, _ = score_answers(BATCH, [answer + " ?" for answer in BATCH.answers], step=None, weights=None)
    assert {wrong.metrics[name] for name in (*QUESTION_TYPES, "overall")} == {0.0}


def test_types_are_scored_apart_and_weigh_the_same() -> None:
    """The k-th type gets k answers right; one type has half its questions."""
    batch = part(BATCH, [*range(10), *range(20, 160)])
    answers, seen = [], dict.fromkeys(range(8), 0)
    for kind, answer in zip(batch.types.tolist(), batch.answers, strict=True):
        answers.append(answer if seen[kind] < kind + 1 else "no idea")
        seen[kind] += 1
    result, rows = score_answers(batch, answers, step=None, weights=None)
    expected = [1 / 10, *((k + 1) / 20 for k in range(1, 8))]
    assert [result.metrics[tag] for tag in QUESTION_TYPES] == pytest.approx(expected)
    assert result.metrics["overall"] == pytest.approx(sum(expected) / 8)
    for row, kind, question, answer, right, held_out in zip(
        rows, batch.types, batch.questions, answers, batch.answers, batch.held_out, strict=True
    ):
        assert row == {
            "tag": QUESTION_TYPES[kind], "prompt": question, "question_id": row["question_id"], "expected": right,
            "answer": answer, "correct": answer == right, "held_out": held_out,
        }  # fmt: skip


def test_a_missing_type_has_no_score() -> None:
    batch = part(BATCH, range(140))
    result, _ = score_answers(batch, batch.answers, step=None, weights=None)
    for name in ("chart", "overall", "chance_chart", "chance_overall"):
        assert result.metrics[name] is None
        assert "chart" in result.missing[name] or "this type" in result.missing[name]
    assert result.metrics["word"] == 1.0
    assert set(result.missing) == {"chart", "overall", "chance_chart", "chance_overall"}


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_answers(BATCH, BATCH.answers[:-1], step=None, weights=None)


def test_chance_is_the_best_of_all_language_only_guessers() -> None:
    """Brute force over every way to give each text of a type one answer."""
    batch = part(BATCH, [row for row in range(160) if row % 20 < 7])
    best = chance(batch)
    for kind, tag in enumerate(QUESTION_TYPES):
        rows = np.flatnonzero(batch.types == kind)
        texts = sorted({batch.questions[row] for row in rows})
        options = sorted({batch.answers[row] for row in rows})
        scores = []
        for guess in product(options, repeat=len(texts)):
            given = dict(zip(texts, guess, strict=True))
            scores.append(np.mean([given[batch.questions[row]] == batch.answers[row] for row in rows]))
        assert best[tag] == pytest.approx(max(scores))
    assert best["overall"] == pytest.approx(np.mean([best[tag] for tag in QUESTION_TYPES]))


def test_language_alone_gets_no_further_than_one_answer_in_so_many() -> None:
    result, _ = score_answers(SceneQuestions(ScenesConfig()).held_out(120), [""] * 960, step=None, weights=None)
    even = {
        "object": 1 / 4,
        "count": 1 / 4,
        "color": 1 / 6,
        "position": 1 / 4,
        "compare": 1 / 2,
        "existence": 1 / 2,
        "chart": 1 / 5,
    }
    assert {tag: result.metrics[f"chance_{tag}"] for tag in even} == pytest.approx(even)
    word = result.metrics["chance_word"]
    assert word is not None
    assert word < 0.02


def test_a_type_is_scored_by_its_own_answers() -> None:
    answers = ["yes" if "more" in question else "red" for question in BATCH.questions]
    result, rows = score_answers(BATCH, answers, step=3, weights="ema")
    assert result.metrics["compare"] == 0.5
    assert [row["answer"] for row in rows] == answers


def test_the_protocol_names_the_question_set() -> None:
    name = protocol_id(BATCH)
    assert name.startswith("scenes-questions-v1-")
    assert name == protocol_id(SceneQuestions(ScenesConfig()).held_out(20))
    images = BATCH.images.copy()
    images[-1, -1, -1, -1] ^= 1
    others = [
        part(BATCH, range(159)),
        replace(BATCH, images=images),
        replace(BATCH, answers=[*BATCH.answers[:-1], "six"]),
        replace(BATCH, questions=[*BATCH.questions[:-1], "what ?"]),
        SceneQuestions(ScenesConfig(seed=1)).held_out(20),
    ]
    assert len({name, *map(protocol_id, others)}) == 6
