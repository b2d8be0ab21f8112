"""Where one box lies relative to another: left, right, above, below, up to two of them, or none."""

import numpy as np
import numpy.typing as npt

RELATIONS = ("left of", "right of", "above", "below")


def relations(box: npt.NDArray[np.float32], target: npt.NDArray[np.float32], position_threshold: float) -> tuple[str, ...]:
    """Relations of `box` to `target`, horizontal before vertical.

    Args:
        box, target: float32 [4], (x1, y1, x2, y2) in pixels, y down.
        position_threshold: share of the two boxes' summed width (height) that is taken off the distance of their
            centres along x (y); what remains is at least 0.

    A relation holds when the remaining offset along its axis exceeds half of the distance between the centres. The
    distance is the one before the reduction, so large boxes near each other have no relation at all.

    Numerical note: all in float32, as the official script computes it; borderline cases depend on it.
    """
    center, size = _center_and_size(box)
    target_center, target_size = _center_and_size(target)
    offset = center - target_center
    margin = np.float32(position_threshold) * (size + target_size)
    reduced = np.maximum(np.abs(offset) - margin, np.float32(0)) * np.sign(offset)
    if np.all(np.abs(reduced) < 1e-3):
        return ()
    dx, dy = reduced / np.linalg.norm(offset)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return tuple(name for name, true in zip(RELATIONS, holds, strict=True) if true)


def _center_and_size(box: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    low, high = box[:2], box[2:]
    return (low + high) / np.float32(2), np.abs(high - low)
