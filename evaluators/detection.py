"""What an evaluator asks of an object detector and of a colour classifier, whatever stands behind them.

Legend: N detections, H x W pixels of the upright image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Detections:
    """All detections of one class in one image, in the detector's own order, weak ones included.

    Args:
        boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels, y down.
        scores: float32 [N]. Single precision matters: thresholds are compared in it.
        masks: bool [N, H, W], or None from a detector without masks.
        colors: N names, None for an object that was not classified; or None where none was.

    Raises:
        ValueError: another shape or dtype.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_] | None = None
    colors: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        num = len(self.scores)
        _require("scores", self.scores, np.float32, (num,))
        _require("boxes", self.boxes, np.float32, (num, 4))
        if self.masks is not None:
            _require("masks", self.masks, np.bool_, (num, *self.masks.shape[1:3]))
            if self.masks.ndim != 3:
                raise ValueError(f"masks: shape {self.masks.shape}, expected [{num}, H, W]")
        if self.colors is not None and len(self.colors) != num:
            raise ValueError(f"colors: {len(self.colors)} of them, expected {num}")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, indices: Sequence[int]) -> "Detections":
        """The detections of these indices, in their order."""
        chosen = np.asarray(indices, dtype=np.intp)
        return Detections(
            self.boxes[chosen],
            self.scores[chosen],
            None if self.masks is None else self.masks[chosen],
            None if self.colors is None else tuple(self.colors[i] for i in indices),
        )


def _require(name: str, array: np.ndarray, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")


@runtime_checkable
class Detector(Protocol):
    """Finds objects. `revision` tells weights and code apart: results of two revisions are not comparable."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def class_names(self) -> Sequence[str]: ...

    def detect(self, images: Sequence[Image]) -> list[dict[str, Detections]]:
        """Class name -> its detections, for each RGB image; a class without any may be left out.

        Names are the benchmark's. GenEval renames three COCO classes, so a COCO detector maps its labels by index.
        """
        ...


@runtime_checkable
class ColorClassifier(Protocol):
    """Names the colour of an object."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    def classify(self, crops: Sequence[Image], class_names: Sequence[str]) -> list[str]:
        """One colour for each RGB crop, which shows an object of the class named for it."""
        ...
