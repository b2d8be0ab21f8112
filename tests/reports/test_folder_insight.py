"""Tables about one scored folder, and about two, on rows whose counts are known."""

from typing import Any

import pytest

from reports.folder_insight import (
    color_confusion,
    comparison_table,
    failure_table,
    nearly_right,
    position_confusion,
    score_table,
)
from rf_repro.core.errors import UserError

THRESHOLDS = {"counting": 0.9, "colors": 0.3, "position": 0.3}


def row(tag: str, prompt_id: int, sample: int, **rest: Any) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id, "sample": sample, "tag": tag, "prompt": f"{tag} {prompt_id}", "correct": True, "reason": "",
        "failure": None, "colors": [], "decisive": {}, **rest,
    }  # fmt: skip


ROWS = [
    row("counting", 0, 0),
    row("counting", 0, 1, correct=False, failure="missing_object", decisive={"cow": 0.86, "not cow": None}),
    row("counting", 0, 2, correct=False, failure="extra_object", decisive={"cow": 0.99, "not cow": 0.94}),
    row("counting", 0, 3, correct=False, failure="missing_object", decisive={"cow": 0.4, "not cow": None}),
    row("colors", 1, 0, colors=[["cow", "red", "red"]]),
    row("colors", 1, 1, correct=False, failure="wrong_color", colors=[["cow", "red", "pink"], ["cow", "red", "red"]]),
    row("position", 2, 0, correct=False, failure="wrong_position",
        reason="expected cow left of target, found right of and above target"),
    row("position", 2, 1, correct=False, failure="wrong_position", reason="expected cow left of target, found  target"),
]  # fmt: skip
TASKS = ["counting", "colors", "position"]


def test_scores_are_task_means_and_their_mean() -> None:
    table = score_table(ROWS, TASKS)
    assert [record["score"] for record in table.records] == pytest.approx([0.25, 0.5, 0, 0.25])
    assert [cells[:3] for cells in table.rows] == [
        ("counting", "1", "4"), ("colors", "1", "2"), ("position", "0", "2"), ("overall", "2", "8"),
    ]  # fmt: skip


def test_failures_are_counted_by_kind_and_nearness() -> None:
    table = failure_table(ROWS, TASKS, THRESHOLDS)
    assert table.header == ("Task", "Wrong", "Object missing", "Wrong colour", "Wrong place", "Object too many", "Near")
    assert table.rows[0] == ("counting", "3", "2", "0", "0", "1", "2")
    assert table.rows[1] == ("colors", "1", "0", "1", "0", "0", "0")
    assert [nearly_right(one, 0.9) for one in ROWS[:4]] == [False, True, True, False]


def test_confusions_count_objects_and_images() -> None:
    colors, positions = color_confusion(ROWS), position_confusion(ROWS)
    assert colors is not None
    assert positions is not None
    assert (colors.header, colors.rows) == (("Asked", "pink", "red"), (("red", "1", "2"),))
    assert positions.records == (
        {"asked": "left of", "seen": "none", "count": 1},
        {"asked": "left of", "seen": "right of and above", "count": 1},
    )
    assert color_confusion(ROWS[:4]) is None


def test_two_folders_are_compared_prompt_by_prompt() -> None:
    better = [{**one, "correct": True} if one["tag"] == "position" else one for one in ROWS]
    table = comparison_table(ROWS, better, TASKS, ("first", "second"))
    overall = table.records[-1]
    assert (overall["difference"], overall["better"], overall["worse"]) == (pytest.approx(1 / 3), 1, 0)
    assert table.records[0]["difference"] == 0
    with pytest.raises(UserError, match="other prompts"):
        comparison_table(ROWS, ROWS[:4], TASKS, ("first", "second"))
