"""Which detections count: score, number and overlap, class by class."""

import numpy as np
import numpy.typing as npt

from evaluators.detection import Detections
from evaluators.geneval.options import GenEvalOptions


def select(detections: Detections, threshold: float, options: GenEvalOptions) -> Detections:
    """The detections of one class that count, best first.

    Order of the steps: sort by descending score, keep scores strictly above `threshold`, keep the first
    `max_objects`, then suppress overlaps. Comparisons are made in float32, the detector's own precision: 0.3 in
    double precision is smaller than 0.3 in single, and a score of exactly the threshold must not pass.

    Equal scores come in the order in which NumPy's default sort leaves them, as in the official script. That order is
    NumPy's choice for the processor at hand: it decides only between detections of one class with identical scores.
    """
    order = np.argsort(detections.scores)[::-1]
    order = order[detections.scores[order] > np.float32(threshold)][: options.max_objects]
    if options.max_overlap != 1:
        order = _suppress(detections.boxes, order, np.float32(options.max_overlap))
    return detections.take(order.tolist())


def _suppress(boxes: npt.NDArray[np.float32], order: npt.NDArray[np.intp], max_overlap: np.float32) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: each kept box removes the later ones whose IoU with it is not below the limit."""
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[box_iou(boxes[best], boxes[rest]) < max_overlap]
    return np.array(kept, dtype=np.intp)


def box_iou(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union of one box [4] with others [N, 4], float32 [N].

    Corners are pixels that belong to the box, so a side is x2 - x1 + 1 long: boxes that end where another begins
    overlap by one pixel. Two boxes without area have IoU 0.
    """
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    intersection = _area(low, high)
    union = _area(box[:2], box[2:]) + _area(others[:, :2], others[:, 2:]) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union != 0)


def _area(low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    sides = np.maximum(high - low + np.float32(1), np.float32(0))
    return sides[..., 0] * sides[..., 1]
