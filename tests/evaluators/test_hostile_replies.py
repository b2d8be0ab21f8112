"""Replies and gold answers that no parser takes cost their own question, whichever benchmark is scored, and never the others."""

from dataclasses import replace

import pytest

from evaluators.understanding.benchmarks import BENCHMARKS
from evaluators.understanding.data import Questions
from evaluators.understanding.literals import listed_texts
from evaluators.understanding.metrics.common import gold_answers
from evaluators.understanding.record import Row
from evaluators.understanding.run import MAX_REPLY, metrics_of, score_replies
from evaluators.vlm.ask import Replies

REPLIES = (
    "[{[]}]",
    "[" * 60_000,
    "[" * 30_000 + "]" * 30_000,
    "9" * 5000,
    "-" * 5000 + "1",
    "1e999",
    "nan",
    "[0x" + "f" * 5000 + "]",
    "\0",
    "\x1b[31mA\x1b[0m",
    "answer" + " " * 3000,
    "(" * 5000,
    "",
    "\u0662\u00b2",
)
ANSWERS = (
    "[{[]}]",
    "[" * 3000 + "]" * 3000,
    "9" * 5000,
    "[" + "9" * 5000 + "]",
    "[0x" + "f" * 5000 + "]",
    "[1]]",
    None,
    {},
    [[]],
    b"a",
)


def row_of(name: str, key: str, answer: object) -> Row:
    fields = {
        "options": ["one", "two", "three", "four"], "question_type": "open", "category": "x", "type": "human", "subject": "Art",
        "question": "A. one", "image_id": "1", "figure_id": "1", "set_id": "1", "subcategory": "x", "question_id": "1",
        "sub_task": "x",
    }  # fmt: skip
    return Row(key, "What?", answer, fields, "c", "columns", dict)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_hostile_reply_or_answer_ends_nothing(name: str) -> None:
    benchmark = BENCHMARKS[name]
    good = {"mme": "Yes", "hallusionbench": "1"}.get(benchmark.metrics, "A")
    rows = [row_of(name, f"reply{number}", good) for number in range(len(REPLIES))]
    rows += [row_of(name, f"answer{number}", answer) for number, answer in enumerate(ANSWERS)]
    rows.append(row_of(name, "long", good))
    texts = [*REPLIES, *("A" for _ in ANSWERS), "A" * (MAX_REPLY + 1)]
    replies = Replies()
    replies.answers.update({row.key: text for row, text in zip(rows, texts, strict=True)})
    questions = Questions(tuple(rows), (), "source", "0" * 8, False)
    found = score_replies(replace(benchmark, expected=len(rows)), questions, replies, "protocol", "model")
    assert found.n + found.failures == len(rows) == len(found.rows)
    failed = {row["key"]: row["failure"] for row in found.rows if row["failure"]}
    assert failed["long"].startswith("cannot be scored (its reply has 65,537 characters")
    assert all(text.isprintable() and text.startswith("cannot be scored (") for text in failed.values())
    assert not any(key.startswith("reply") for key in failed), failed  # a strange reply is a wrong answer
    assert found.metrics["paper"] is None
    assert metrics_of(benchmark).PAPER_METRIC in found.metrics


def test_stored_lists_are_read_and_nothing_else() -> None:
    assert listed_texts("['a', \"b\", 3, -1.5]") == ["a", "b", "3", "-1.5"]
    assert listed_texts("('a',)") == ["a"]
    deep, digits, long = "[" * 90_000, "[0x" + "f" * 5000 + "]", "[1]" * 50_000
    for text in ("[{[]}]", deep, "[f()]", digits, "{'a': 1}", "'a'", "[", long, "[" + "-" * 50_000 + "1]"):
        assert listed_texts(text) is None
    assert gold_answers("[{[]}]") == ["[{[]}]"]
    assert gold_answers("['a', 'b']") == ["a", "b"]
