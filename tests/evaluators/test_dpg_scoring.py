"""DPG-Bench's numbers against a step-by-step account of the official script, and against what its rules mean.

The account is written from what compute_dpg_bench.py does (TencentQQGYLab/ELLA 3c228f1): dictionaries by question number that
later rows overwrite, answers that change in place, exceptions that drop a file.
"""

import csv
import io
import math
import random
from collections import defaultdict
from typing import Any

import pytest

from evaluators.dpg.data import level1, parse
from evaluators.dpg.scoring import (
    FileAnswers,
    FileScore,
    score_file,
    score_fixed,
    score_official,
    summarize_fixed,
    summarize_official,
    zero_children,
)
from tests.evaluators.dpg_world import csv_text, random_rows, simple_rows

Folder = list[tuple[str, list[dict[str, str]]]]  # (name before the first dot, of each image: question -> "yes" or other words)
NUM_RANDOM = 300


def official_account(text: str, folder: Folder) -> dict[str, Any]:
    """What the script prints for a folder, computed as it does."""
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    tuples: dict[str, dict[int, str]] = {}
    parents: dict[str, dict[int, list[int]]] = {}
    questions: dict[str, dict[int, str]] = {}
    last = ""
    for position in range(1, len(lines)):  # the row at 0 is passed over
        line = lines[position]
        name, number = line["item_id"], int(line["proposition_id"])
        if name != last:
            tuples[name], parents[name], questions[name] = {}, {}, {}
        tuples[name][number] = line["tuple"]
        parents[name][number] = [int(part) for part in line["dependency"].split(",")]
        questions[name][number] = line["question_natural_language"]
        last = name
    means: list[float] = []
    by_category: dict[str, list[float]] = defaultdict(list)
    of_file: list[float | None] = []
    for name, images in folder:
        try:
            of_image = []
            for said in images:
                marks = {}
                for number, question in questions[name].items():
                    marks[number] = 1.0 if said[question] == "yes" else 0.0
                untouched = dict(marks)
                for number in parents[name]:
                    for parent in parents[name][number]:
                        if parent != 0 and marks[parent] == 0:
                            marks[number] = 0
                            break
                of_image.append(sum(marks.values()) / len(marks))
            mean = sum(of_image) / len(of_image)
        except KeyError:
            of_file.append(None)
            continue
        means.append(mean)
        of_file.append(mean)
        for number in tuples[name]:
            by_category[tuples[name][number].split("(")[0].strip()].append(untouched[number])
    level_1: dict[str, list[float]] = defaultdict(list)
    for category, marks_of in by_category.items():
        level_1[category.split("-")[0].strip()] += marks_of

    def average(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    return {
        "files": of_file,
        "dpg": average(means) if means else None,
        "l1": {name: average(values) for name, values in level_1.items()},
        "l2": {name: average(values) for name, values in by_category.items()},
        "counts": {name: len(values) for name, values in by_category.items()},
    }


def random_folder(text: str, seed: int) -> Folder:
    """Files of most items, some names that are none, and 1 or 4 images with random answers to all of its questions."""
    rng = random.Random(f"folder {seed}")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    folder: Folder = []
    images = rng.choice((1, 4))
    rate = rng.choice((0.3, 0.7, 0.95))
    for name in [*dict.fromkeys(line["item_id"] for line in lines), "stranger"]:
        if rng.random() < 0.15:
            continue
        asked = [line["question_natural_language"] for line in lines if line["item_id"] == name]
        said = [{question: "yes" if rng.random() < rate else rng.choice(("no", "Yes", "yes.")) for question in asked}
                for _ in range(images)]  # fmt: skip
        folder.append((name, said))
    return folder


def answers_of(folder: Folder) -> list[FileAnswers]:
    return [
        FileAnswers(name, tuple({question: word == "yes" for question, word in said.items()} for said in images))
        for name, images in folder
    ]


def close(ours: dict[str, tuple[float, int]], theirs: dict[str, float]) -> bool:
    return set(ours) == set(theirs) and all(math.isclose(ours[name][0], theirs[name], abs_tol=1e-12) for name in theirs)


def test_official_is_the_scripts_on_random_files() -> None:
    dropped = changed = 0
    for seed in range(NUM_RANDOM):
        text = csv_text(random_rows(seed))
        folder = random_folder(text, seed)
        account = official_account(text, folder)
        scored = score_official(parse(text.encode(), "made", "made"), answers_of(folder))
        for own, theirs in zip(scored, account["files"], strict=True):
            if isinstance(own, FileScore):
                assert theirs is not None, seed
                assert math.isclose(own.score, theirs, abs_tol=1e-12), seed
                changed += own.answers != own.scores
            else:
                assert theirs is None, (seed, own)
                dropped += 1
        summary = summarize_official(scored)
        if account["dpg"] is None:
            assert summary.score is None, seed
        else:
            assert summary.score is not None
            assert math.isclose(summary.score, account["dpg"], abs_tol=1e-12), seed
        assert close(summary.level1, account["l1"]), seed
        assert close(summary.level2, account["l2"]), seed
        assert {name: count for name, (_, count) in summary.level2.items()} == account["counts"], seed
    assert dropped > NUM_RANDOM  # strangers, skipped rows and lost parents
    assert changed > NUM_RANDOM  # the parent rule did something


def test_fixed_counts_a_question_when_it_and_all_above_it_are_yes() -> None:
    """Where parents come first, the walk means: yes, and every ancestor yes. Computed by recursion, from other structures."""
    for seed in range(NUM_RANDOM):
        rows = random_rows(seed, tidy=True)
        text = csv_text(rows)
        benchmark = parse(text.encode(), "made", "made")
        folder = [file for file in random_folder(text, seed) if file[0] != "stranger"]
        above = {(item, number): [int(part) for part in parents.split(",")] for item, number, parents, _, _ in rows}
        words = {(item, number): question for item, number, _, _, question in rows}

        def holds(item: str, number: int, said: dict[str, str], above: Any = above, words: Any = words) -> bool:
            return number == 0 or (
                said[words[item, number]] == "yes" and all(holds(item, parent, said) for parent in above[item, number])
            )

        means, categories = [], defaultdict(list)
        for name, images in folder:
            own = [(number, category) for item, number, _, category, _ in rows if item == name]
            marks = [[holds(name, number, said) for number, _ in own] for said in images]
            means.append(sum(sum(each) / len(each) for each in marks) / len(marks))
            for each in marks:
                for (_, category), mark in zip(own, each, strict=True):
                    categories[category].append(mark)
        scored = score_fixed(benchmark, answers_of(folder))
        assert [file.score for file in scored if isinstance(file, FileScore)] == pytest.approx(means, abs=1e-12)
        summary = summarize_fixed(scored)
        if not means:
            assert summary.score is None
            continue
        assert summary.score == pytest.approx(sum(means) / len(means), abs=1e-12)
        assert close(summary.level2, {name: sum(marks) / len(marks) for name, marks in categories.items()})
        assert sum(count for _, count in summary.level1.values()) == sum(map(len, categories.values()))


def test_the_ways_differ_in_the_first_item_alone() -> None:
    for seed in range(60):
        text = csv_text(random_rows(seed, tidy=True))
        benchmark = parse(text.encode(), "made", "made")
        folder = answers_of([file for file in random_folder(text, seed) if file[0] != "stranger"])
        for file, fixed, official in zip(
            folder, score_fixed(benchmark, folder), score_official(benchmark, folder), strict=True
        ):  # fmt: skip
            assert file.item_id == "item0" or fixed == official


def test_a_yes_never_lowers_and_a_second_walk_changes_nothing() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        questions = parse(csv_text(random_rows(seed, tidy=True)).encode(), "made", "made").items["item0"]
        answers = [rng.randint(0, 1) for _ in questions]
        after = zero_children(questions, answers)
        assert zero_children(questions, after) == after
        assert all(own <= said for own, said in zip(after, answers, strict=True))
        for place in range(len(answers)):
            raised = zero_children(questions, [*answers[:place], 1, *answers[place + 1 :]])
            assert all(more >= less for more, less in zip(raised, after, strict=True))


def test_zeroes_cascade_downwards_in_the_files_order_only() -> None:
    rows = [("a", number, parents, "entity - whole", f"question {number}")
            for number, parents in ((1, "0"), (2, "1"), (3, "0, 2"), (4, "5"), (5, "1"))]  # fmt: skip
    questions = parse(csv_text(rows).encode(), "made", "made").items["a"]
    assert zero_children(questions, [0, 1, 1, 1, 1]) == [0, 0, 0, 1, 0]  # four was walked before its parent was zeroed
    assert zero_children(questions, [1, 0, 1, 1, 1]) == [1, 0, 0, 1, 1]
    file = score_file(questions, [{question.text: question.id != 2 for question in questions}] * 3)
    assert (file.images, file.score) == ([0.6, 0.6, 0.6], pytest.approx(0.6))


def test_rows_that_the_script_overwrites_all_count_in_fixed() -> None:
    """An item's rows apart, and one number twice: either of the two zeroes the child."""
    rows = [("z", 1, "0", "global -", "first"), ("a", 1, "0", "entity - whole", "one"), ("a", 1, "0", "entity - part", "uno"),
            ("a", 2, "1", "entity - part", "two"), ("b", 1, "0", "entity - part", "other"),
            ("a", 3, "1", "entity - part", "three")]  # fmt: skip
    benchmark = parse(csv_text(rows).encode(), "made", "made")
    yes = {question.text: True for question in benchmark.rows}
    for lost, expected in (("one", [0, 1, 0, 0]), ("uno", [1, 0, 0, 0]), ("three", [1, 1, 1, 0])):
        (file,) = score_fixed(benchmark, [FileAnswers("a", (yes | {lost: False},))])
        assert isinstance(file, FileScore)
        assert file.scores == (tuple(expected),)
    (file,) = score_official(benchmark, [FileAnswers("a", (yes,))])
    assert file == "KeyError: 1: a parent that was skipped"  # the later row alone is left of a's


def test_what_the_script_loses_of_the_published_file() -> None:
    """The first item loses its root and raises; categories see the last image alone, before the parent rule."""
    benchmark = parse(csv_text(simple_rows()).encode(), "made", "made")
    yes = {question.text: True for question in benchmark.rows}
    no_root = yes | {"Is it 1 in 256?": False}
    files = [FileAnswers("partiprompts97", (yes,) * 4), FileAnswers("256", (yes, yes, yes, no_root)),
             FileAnswers("drawtext1", (yes,) * 4)]  # fmt: skip
    official, fixed = score_official(benchmark, files), score_fixed(benchmark, files)
    assert isinstance(official[0], str)
    assert official[0].startswith("KeyError: 1")
    assert official[1:] == fixed[1:]
    theirs, ours = summarize_official(official), summarize_fixed(fixed)
    assert (theirs.score, theirs.files, ours.score, ours.files) == (0.875, 2, pytest.approx((1 + 0.75 + 1) / 3), 3)
    assert theirs.level2 == {"attribute - color": (1, 2), "entity - part": (1, 2), "entity - whole": (0.5, 2)}
    assert ours.level2["attribute - color"] == (11 / 12, 12)
    assert ours.level1["entity"] == (22 / 24, 24)


def test_a_file_without_answers_leaves_fixed_without_a_score() -> None:
    benchmark = parse(csv_text(simple_rows()).encode(), "made", "made")
    yes = {question.text: True for question in benchmark.rows}
    files = [FileAnswers("256", (), "no reply"), FileAnswers("drawtext1", (yes,))]
    assert summarize_fixed(score_fixed(benchmark, files)).score is None
    assert summarize_official(score_official(benchmark, files)).score == 1


@pytest.mark.parametrize(
    ("category", "top"), [("entity - whole", "entity"), ("global -", "global"), ("relation - non-spatial", "relation")]
)
def test_level1(category: str, top: str) -> None:
    assert level1(category) == top
