"""Names the colour of a detected shape: the nearest of the world's colours."""

from collections.abc import Sequence

import numpy as np
from PIL import ImageColor
from PIL.Image import Image

from evaluators.geneval.crops import BACKGROUND
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.render import RGB

_HIDDEN = np.array(ImageColor.getrgb(BACKGROUND))


class SceneColorClassifier:
    """GenEval's `ColorClassifier` for the scenes world: per-channel median of the visible pixels, nearest in RGB.

    The median leaves out a shape's edge, whose pixels are blended with the background and fewer than those inside.
    """

    name = "scenes-palette"

    def __init__(self, config: ScenesConfig) -> None:
        self._names = config.colors
        self._palette = np.array([RGB[name] for name in config.colors]) * 255
        self.revision = "1:" + ",".join(config.colors)

    def classify(self, crops: Sequence[Image], class_names: Sequence[str]) -> list[str]:
        """One of `config.colors` for each RGB crop; pixels of exactly the mask's grey are taken as hidden.

        Raises:
            UserError: a crop shows nothing but the mask's grey.
        """
        names = []
        for crop, class_name in zip(crops, class_names, strict=True):
            pixels = np.asarray(crop.convert("RGB"), np.float64).reshape(-1, 3)
            shown = pixels[(pixels != _HIDDEN).any(1)]
            if not len(shown):
                raise UserError(f"a {class_name}: its crop shows no pixel; its mask is empty")
            distance = np.linalg.norm(self._palette - np.median(shown, axis=0), axis=1)
            names.append(self._names[int(distance.argmin())])
        return names
