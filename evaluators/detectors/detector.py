"""What both backends of Mask2Former have in common: the pixels that go in, in which precision, and the classes that come out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from evaluators.detection import Detections
from evaluators.detectors.coco import OBJECT_NAMES
from evaluators.detectors.instances import exact_inference
from evaluators.detectors.pixels import Frame, prepare


class Mask2Former(ABC):
    """GenEval's `Detector`: Mask2Former trained on COCO's 80 classes, in float32, behind the pixels that mmdet 2.27 gave it.

    Args:
        model: the backend's network; `find` asks it.
        revision: tells weights and code apart.
    """

    name: str
    class_names = OBJECT_NAMES

    def __init__(self, model: Any, revision: str, device: torch.device) -> None:
        self.revision = revision
        self._model = model.to(device).eval()
        self._device = device

    def detect(self, images: Sequence[Image]) -> list[dict[str, Detections]]:
        """All instances, up to 100 an image, weak ones included. Images must be RGB and of one size."""
        with exact_inference():
            return self.find(*prepare(images, self._device))

    @abstractmethod
    def find(self, pixels_BCPQ: Tensor, frame: Frame) -> list[dict[str, Detections]]:
        """The instances of each image of a batch as `prepare` makes it."""
