"""Which detections count: thresholds in float32, number, and suppression with one-pixel-larger boxes."""

from fractions import Fraction

import numpy as np
import pytest

from evaluators.detection import Detections
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.selection import box_iou, select

DEFAULT = GenEvalOptions()


def found(scores: list[float], boxes: list[list[float]] | None = None) -> Detections:
    boxes = boxes or [[10 * i, 0, 10 * i + 5, 5] for i in range(len(scores))]
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32))


@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_threshold_is_strict_in_single_precision(threshold: float) -> None:
    """float32(0.3) is larger than 0.3 and float32(0.9) smaller, so comparing in float64 would err for one of them."""
    exactly = np.float32(threshold)
    above, below = np.nextafter(exactly, np.float32(1)), np.nextafter(exactly, np.float32(0))
    kept = select(found([below, exactly, above]), threshold, DEFAULT)
    assert kept.scores.tolist() == [above]


def test_best_come_first_with_their_boxes_and_masks() -> None:
    masks = np.arange(3)[:, None, None] == np.zeros((1, 2, 2))
    given = Detections(found([0.5, 0.9, 0.7]).boxes, found([0.5, 0.9, 0.7]).scores, masks)
    kept = select(given, 0.3, DEFAULT)
    assert kept.scores.tolist() == np.float32([0.9, 0.7, 0.5]).tolist()
    assert kept.boxes[:, 0].tolist() == [10, 20, 0]
    assert kept.masks is not None
    assert kept.masks.all(axis=(1, 2)).tolist() == [False, False, True]


def test_at_most_sixteen_of_a_class() -> None:
    scores = np.linspace(0.4, 0.95, 17).tolist()
    kept = select(found(scores), 0.3, DEFAULT)
    assert kept.scores.tolist() == np.float32(scores[:0:-1]).tolist()


def test_default_keeps_identical_boxes() -> None:
    assert len(select(found([0.8, 0.7], [[0, 0, 9, 9]] * 2), 0.3, DEFAULT)) == 2


def test_iou_counts_both_end_pixels() -> None:
    """[0, 9] and [5, 14] are 10 pixels each and share 5: 50 of 150, where lengths of 9 would give 36 of 126."""
    boxes = np.array([[5, 0, 14, 9], [9, 9, 18, 18], [10, 0, 19, 9], [0, 0, 9, 9]], np.float32)
    expected = [Fraction(50, 150), Fraction(1, 199), Fraction(0), Fraction(1)]
    assert box_iou(np.array([0, 0, 9, 9], np.float32), boxes).tolist() == [np.float32(float(value)) for value in expected]


def test_iou_of_boxes_without_area_is_zero() -> None:
    empty = np.array([5, 5, 3, 3], np.float32)
    assert box_iou(empty, empty[None]).tolist() == [0.0]


def test_overlap_at_the_limit_is_suppressed() -> None:
    boxes = [[0, 0, 9, 9], [0, 0, 9, 4]]  # IoU 50 / 100, exact in float32
    assert len(select(found([0.9, 0.8], boxes), 0.3, GenEvalOptions(max_overlap=0.5))) == 1
    assert len(select(found([0.9, 0.8], boxes), 0.3, GenEvalOptions(max_overlap=0.51))) == 2


def test_any_limit_below_one_suppresses_identical_boxes() -> None:
    assert len(select(found([0.9, 0.8], [[0, 0, 9, 9]] * 2), 0.3, GenEvalOptions(max_overlap=1 - 1e-9))) == 1


def test_suppressed_boxes_suppress_nothing() -> None:
    """B goes because of A; C overlaps only B, so it stays."""
    boxes = [[0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9]]
    kept = select(found([0.9, 0.8, 0.7], boxes), 0.3, GenEvalOptions(max_overlap=0.3))
    assert kept.boxes[:, 0].tolist() == [0, 10]


def test_number_is_limited_before_suppression() -> None:
    boxes = [[0, 0, 9, 9], [0, 0, 9, 9], [30, 0, 39, 9]]
    kept = select(found([0.9, 0.8, 0.7], boxes), 0.3, GenEvalOptions(max_overlap=0.5, max_objects=2))
    assert kept.boxes[:, 0].tolist() == [0]


def test_suppression_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    for limit in (0.0, 0.1, 0.3, 0.6, 0.9):
        for _ in range(40):
            low = rng.integers(0, 20, (12, 2))
            boxes = np.hstack([low, low + rng.integers(0, 15, (12, 2))])
            scores = rng.permutation(np.linspace(0.35, 0.95, 12))
            survivors: list[int] = []
            for i in np.argsort(-scores):
                if all(_exact_iou(boxes[i], boxes[j]) < limit for j in survivors):
                    survivors.append(int(i))
            kept = select(found(scores.tolist(), boxes.tolist()), 0.3, GenEvalOptions(max_overlap=limit))
            assert kept.scores.tolist() == np.float32(scores[survivors]).tolist()


def _exact_iou(a: np.ndarray, b: np.ndarray) -> float:
    """By counting pixels."""
    cover = [{(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)} for box in (a, b)]
    return len(cover[0] & cover[1]) / len(cover[0] | cover[1])


def test_wrong_arrays_are_refused() -> None:
    boxes, scores = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="scores: float64"):
        Detections(boxes, scores.astype(np.float64))
    with pytest.raises(ValueError, match="boxes"):
        Detections(boxes[:1], scores)
    with pytest.raises(ValueError, match="masks"):
        Detections(boxes, scores, np.zeros((2, 5), bool))
    with pytest.raises(ValueError, match="masks"):
        Detections(boxes, scores, np.zeros((1, 5, 5), bool))
