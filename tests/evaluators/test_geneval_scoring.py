"""Verdicts on hand-made detections, in the official words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluators.detection import Detections
from evaluators.geneval.metadata import COLORS, PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.scoring import ImageVerdict, crop_colors, score_image
from rf_repro.config.data_schema import GENEVAL_COLORS
from rf_repro.core.errors import UserError

RGB = {"red": (220, 20, 30), "blue": (20, 40, 220), "white": (250, 250, 250), "black": (5, 5, 5)}
SIZE = 100


class NearestColor:
    """Names the colour of a crop's centre, and keeps how often it was asked."""

    name = "nearest"
    revision = "1"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
        self.asked.append((class_names[0], len(crops)))
        return [min(RGB, key=lambda name: _distance(crop, RGB[name])) for crop in crops]


def _distance(crop: Image.Image, color: tuple[int, ...]) -> int:
    pixel = np.asarray(crop)[crop.height // 2, crop.width // 2].astype(int)
    return int(((pixel - color) ** 2).sum())


Thing = tuple[float, float, float, str]  # centre x, centre y, score, colour; all are 10 pixels wide and high


def judge(
    things: dict[str, list[Thing]], include: list[Any], exclude: list[Any] | None = None, tag: str = "colors", **options: Any
) -> tuple[ImageVerdict, NearestColor]:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    detections = {}
    for name, group in things.items():
        for x, y, _, color in group:
            pixels[int(y) - 5 : int(y) + 5, int(x) - 5 : int(x) + 5] = RGB[color]
        boxes = np.array([[x - 5, y - 5, x + 5, y + 5] for x, y, _, _ in group], np.float32).reshape(-1, 4)
        detections[name] = Detections(boxes, np.array([score for _, _, score, _ in group], np.float32))
    metadata = {"tag": tag, "prompt": "p", "include": include} | ({} if exclude is None else {"exclude": exclude})
    classifier = NearestColor()
    return score_image(
        metadata, detections, crop_colors(Image.fromarray(pixels), classifier), GenEvalOptions(**options)
    ), classifier


def row(x: float, count: int, color: str = "red", score: float = 0.95) -> list[Thing]:
    return [(x, 10 + 20 * i, score - 0.01 * i, color) for i in range(count)]


def test_enough_objects_pass_and_are_listed_with_everything_else_seen() -> None:
    verdict, _ = judge({"cow": row(10, 2), "dog": row(50, 1), "cat": [(80, 80, 0.3, "red")]}, [{"class": "cow", "count": 1}])
    score = [float(np.float32(value)) for value in (0.95, 0.94)]
    assert verdict == ImageVerdict(
        correct=True, reason="", failure=None,
        details={"cow": [[5, 5, 15, 15, score[0]], [5, 25, 15, 35, score[1]]], "dog": [[45, 5, 55, 15, score[0]]]},
    )  # fmt: skip


def test_fewer_than_count_fails() -> None:
    verdict, _ = judge({"cow": row(10, 2)}, [{"class": "cow", "count": 3}])
    assert (verdict.correct, verdict.reason, verdict.failure) == (False, "expected cow>=3, found 2", "missing_object")


def test_absent_class_counts_as_none_found() -> None:
    verdict, _ = judge({}, [{"class": "cow", "count": 1}])
    assert (verdict.reason, verdict.details) == ("expected cow>=1, found 0", {})


def test_excess_fails_only_where_excluded() -> None:
    include = [{"class": "cow", "count": 2}]
    assert judge({"cow": row(10, 3)}, include)[0].correct
    verdict, _ = judge({"cow": row(10, 3)}, include, [{"class": "cow", "count": 3}])
    assert (verdict.correct, verdict.reason, verdict.failure) == (False, "expected cow<3, found 3", "extra_object")
    assert judge({"cow": row(10, 2)}, include, [{"class": "cow", "count": 3}])[0].correct


def test_excluded_objects_are_counted_in_all_not_up_to_the_limit() -> None:
    verdict, _ = judge({"cow": row(10, 4)}, [], [{"class": "cow", "count": 2}])
    assert verdict.reason == "expected cow<2, found 4"


@pytest.mark.parametrize(("tag", "found"), [("counting", 0), ("single_object", 1), ("color_attr", 1)])
def test_counting_has_its_own_threshold_for_every_class(tag: str, found: int) -> None:
    things = {"cow": [(10.0, 10.0, 0.95, "red")], "dog": [(50.0, 50.0, 0.9, "red")]}
    verdict, _ = judge(things, [{"class": "cow", "count": 1}], [{"class": "dog", "count": 1}], tag)
    assert verdict.correct == (not found)
    assert len(verdict.details.get("dog", [])) == found


def test_thresholds_follow_the_options() -> None:
    things = {"cow": [(10.0, 10.0, 0.5, "red")]}
    include = [{"class": "cow", "count": 1}]
    assert not judge(things, include, threshold=0.5)[0].correct
    assert judge(things, include, threshold=0.49)[0].correct
    assert not judge(things, include, tag="counting", counting_threshold=0.5)[0].correct
    assert judge(things, include, tag="counting", counting_threshold=0.49, threshold=0.9)[0].correct


def test_color_is_asked_of_the_best_count_only() -> None:
    """The best cow is blue: a red one of lower score does not help, and a third is never looked at."""
    things = {"cow": [(10.0, 10.0, 0.5, "red"), (40.0, 10.0, 0.9, "blue"), (70.0, 10.0, 0.4, "red")]}
    verdict, classifier = judge(things, [{"class": "cow", "count": 1, "color": "red"}])
    assert (verdict.reason, verdict.failure) == ("expected red cow>=1, found 0 red; and 1 blue", "wrong_color")
    assert classifier.asked == [("cow", 1)]
    assert judge(things, [{"class": "cow", "count": 1, "color": "blue"}])[0].correct


def test_all_of_count_must_have_the_color() -> None:
    """Colours seen are listed in the official colour order, whatever order the objects come in."""
    things = {"cow": [(10.0, 10.0, 0.9, "white"), (40.0, 10.0, 0.8, "blue"), (70.0, 10.0, 0.7, "red")]}
    verdict, _ = judge(things, [{"class": "cow", "count": 3, "color": "blue"}])
    assert verdict.reason == "expected blue cow>=3, found 1 blue; and 1 red, 1 blue, 1 white"


def test_color_is_not_asked_when_objects_are_missing() -> None:
    verdict, classifier = judge({"cow": row(10, 1)}, [{"class": "cow", "count": 2, "color": "blue"}])
    assert (verdict.reason, classifier.asked) == ("expected cow>=2, found 1", [])


def test_colors_are_judged_clause_by_clause() -> None:
    things = {"cow": row(10, 1, "red"), "dog": row(60, 1, "blue")}
    include = [{"class": "cow", "count": 1, "color": "blue"}, {"class": "dog", "count": 1, "color": "red"}]
    verdict, _ = judge(things, include)
    assert verdict.reason == "expected blue cow>=1, found 0 blue; and 1 red\nexpected red dog>=1, found 0 red; and 1 blue"


POSITION = [{"class": "dog", "count": 1}, {"class": "cow", "count": 1, "position": ["right of", 0]}]


def test_position_is_that_of_the_subject_relative_to_the_target() -> None:
    assert judge({"cow": row(80, 1), "dog": row(20, 1)}, POSITION)[0].correct
    verdict, _ = judge({"cow": row(20, 1), "dog": row(80, 1)}, POSITION)
    assert (verdict.reason, verdict.failure) == ("expected cow right of target, found left of target", "wrong_position")


def test_two_relations_and_none_are_named() -> None:
    verdict, _ = judge({"cow": [(20, 80, 0.9, "red")], "dog": [(80, 20, 0.9, "red")]}, POSITION)
    assert verdict.reason == "expected cow right of target, found left of and below target"
    verdict, _ = judge({"cow": [(50, 50, 0.9, "red")], "dog": [(50, 50, 0.9, "red")]}, POSITION)
    assert verdict.reason == "expected cow right of target, found  target"


def test_position_looks_at_the_best_objects_only() -> None:
    things = {
        "cow": [(10.0, 50.0, 0.5, "red"), (80.0, 50.0, 0.9, "red")],
        "dog": [(40.0, 50.0, 0.9, "red"), (95.0, 50.0, 0.4, "red")],
    }
    assert judge(things, POSITION)[0].correct


def test_every_pair_must_hold_and_the_first_failing_pair_is_told_once() -> None:
    include = [{"class": "dog", "count": 2}, {"class": "cow", "count": 2, "position": ["right of", 0]}]
    dogs = [(20.0, 20.0, 0.9, "red"), (50.0, 20.0, 0.8, "red")]
    assert judge({"dog": dogs, "cow": [(80.0, 20.0, 0.9, "red"), (90.0, 20.0, 0.8, "red")]}, include)[0].correct
    for cows in ([(80, 20), (35, 20)], [(35, 20), (80, 20)], [(35, 20), (35, 20)]):
        verdict, _ = judge({"dog": dogs, "cow": [(x, y, 0.9 - 0.1 * i, "red") for i, (x, y) in enumerate(cows)]}, include)
        assert verdict.reason == "expected cow right of target, found left of target"


def test_position_without_its_target_fails() -> None:
    verdict, _ = judge({"cow": row(80, 1)}, POSITION)
    assert verdict.reason == "expected dog>=1, found 0\nno target for cow to be right of"
    assert verdict.failure == "missing_object"


def test_a_target_of_the_wrong_color_is_no_target() -> None:
    include = [{"class": "dog", "count": 1, "color": "blue"}, POSITION[1]]
    verdict, _ = judge({"cow": row(80, 1), "dog": row(20, 1)}, include)
    assert verdict.reason == "expected blue dog>=1, found 0 blue; and 1 red\nno target for cow to be right of"
    assert verdict.failure == "wrong_color"


def test_position_is_not_asked_of_objects_of_the_wrong_color() -> None:
    include = [POSITION[0], {**POSITION[1], "color": "blue"}]
    verdict, _ = judge({"cow": row(20, 1), "dog": row(80, 1)}, include)
    assert verdict.reason == "expected blue cow>=1, found 0 blue; and 1 red"


def test_position_threshold_follows_the_options() -> None:
    things = {"cow": row(80, 1), "dog": row(20, 1)}
    assert not judge(things, POSITION, position_threshold=2.0)[0].correct  # (60 - 40) / 60


def test_max_objects_and_overlap_follow_the_options() -> None:
    exclude = [{"class": "cow", "count": 2}]
    assert not judge({"cow": row(10, 2)}, [], exclude)[0].correct
    assert judge({"cow": row(10, 2)}, [], exclude, max_objects=1)[0].correct
    twins = [(10.0, 10.0, 0.9, "red"), (11.0, 10.0, 0.8, "red")]
    assert not judge({"cow": twins}, [], exclude)[0].correct
    assert judge({"cow": twins}, [], exclude, max_overlap=0.5)[0].correct


def test_classifier_answers_are_checked() -> None:
    class Mute(NearestColor):
        def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
            return ["crimson"] * len(crops)

    metadata = {"tag": "colors", "prompt": "p", "include": [{"class": "cow", "count": 1, "color": "red"}]}
    cow = Detections(np.array([[0, 0, 5, 5]], np.float32), np.array([0.9], np.float32))
    with pytest.raises(ValueError, match="crimson"):
        score_image(metadata, {"cow": cow}, crop_colors(Image.new("RGB", (9, 9)), Mute()), GenEvalOptions())


def test_colors_are_those_of_the_scenes() -> None:
    assert COLORS == GENEVAL_COLORS


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ({"count": 1}, "class is None"),
        ({"class": "cow"}, "count is None"),
        ({"class": "cow", "count": 0}, "count is 0"),
        ({"class": "cow", "count": 1, "color": "cyan"}, "color is 'cyan', must be one of red, orange"),
        ({"class": "cow", "count": 1, "position": ["near", 0]}, "position is"),
        ({"class": "cow", "count": 1, "position": ["above", 1]}, "earlier clause"),
        ({"class": "cow", "count": 1, "position": "above"}, "earlier clause"),
    ],
)
def test_metadata_that_no_image_can_satisfy_is_refused(clause: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"file: include\[1\]: .*{message}"):
        PromptSpec.parse({"tag": "position", "prompt": "p", "include": [{"class": "dog", "count": 1}, clause]}, "file")


def test_metadata_needs_tag_and_prompt() -> None:
    with pytest.raises(UserError, match="tag is None"):
        PromptSpec.parse({"prompt": "p"}, "file")
