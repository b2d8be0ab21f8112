"""From rows to numbers: unweighted tasks, missing ones with a reason, and the protocol's identity."""

import pytest

from evaluators.geneval.metadata import TASKS
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.summary import protocol_id, summarize

Row = dict[str, object]


def rows(task: str, prompt_id: int, *verdicts: bool | None) -> list[Row]:
    return [{"tag": task, "prompt_id": prompt_id, "correct": correct} for correct in verdicts]


def all_tasks() -> list[Row]:
    """single_object: 8 of 8 images right; the other five: 1 of 4, all on one prompt."""
    found = rows("single_object", 0, *[True] * 4) + rows("single_object", 1, *[True] * 4)
    for number, task in enumerate(TASKS[1:], start=2):
        found += rows(task, number, True, False, False, False)
    return found


def test_tasks_weigh_alike_whatever_their_size() -> None:
    metrics, missing = summarize(all_tasks())
    assert missing == {}
    assert metrics["single_object"] == 1.0
    assert metrics["position"] == 0.25
    assert metrics["overall"] == pytest.approx((1 + 5 * 0.25) / 6)
    assert metrics["images_correct"] == pytest.approx(13 / 28)
    assert metrics["prompts_correct_any"] == 1.0
    assert list(metrics) == [*TASKS, "overall", "images_correct", "prompts_correct_any"]


def test_a_prompt_is_right_when_any_of_its_images_is() -> None:
    metrics, _ = summarize(rows("colors", 0, False, True) + rows("colors", 1, False, False) + rows("colors", 2, False, None))
    assert metrics["prompts_correct_any"] == pytest.approx(1 / 3)


def test_a_task_without_images_is_missing_and_so_is_the_overall_score() -> None:
    found = [row for row in all_tasks() if row["tag"] != "counting"]
    metrics, missing = summarize(found)
    assert metrics["counting"] is None
    assert metrics["overall"] is None
    assert missing == {"counting": "no image of this task", "overall": "no score for counting"}
    assert metrics["images_correct"] == pytest.approx(12 / 24)


def test_unscored_images_are_in_no_mean() -> None:
    metrics, missing = summarize(all_tasks() + rows("colors", 9, None, None))
    assert (metrics["colors"], missing) == (0.25, {})
    found = [{**row, "correct": None} if row["tag"] == "colors" else row for row in all_tasks()]
    metrics, missing = summarize(found)
    assert metrics["colors"] is None
    assert missing["colors"] == "none of its 4 images could be read"
    assert metrics["overall"] is None


def test_other_tags_are_tasks_too() -> None:
    metrics, _ = summarize(all_tasks() + rows("texture", 9, False, False))
    assert metrics["texture"] == 0.0
    assert metrics["overall"] == pytest.approx((1 + 5 * 0.25) / 7)


def test_nothing_scored_is_no_number() -> None:
    metrics, missing = summarize([])
    assert set(metrics.values()) == {None}
    assert set(missing) == set(metrics)


def test_protocol_depends_on_rules_and_prompts_not_on_order() -> None:
    images_of = {("colors", "a red cow"): 4, ("counting", "two cows"): 4}
    name = protocol_id(GenEvalOptions(), images_of)
    assert name == protocol_id(GenEvalOptions(), dict(reversed(images_of.items())))
    assert name.startswith("geneval-")
    assert len(name) == len("geneval-") + 8
    others = [
        protocol_id(GenEvalOptions(threshold=0.31), images_of),
        protocol_id(GenEvalOptions(max_overlap=0.9), images_of),
        protocol_id(GenEvalOptions(), {**images_of, ("counting", "two cows"): 3}),
        protocol_id(GenEvalOptions(), {("colors", "a red cow"): 4}),
        protocol_id(GenEvalOptions(), {("color_attr", "a red cow"): 4, ("counting", "two cows"): 4}),
    ]
    assert len({name, *others}) == 6
