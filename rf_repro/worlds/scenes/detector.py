"""Finds and names the shapes of the scenes world, without learning: connected regions against rendered templates.

A region's soft coverage is read off its colour. For every shape (and rotation) the world's own renderer draws a template with
the region's centroid and area; the best class is reported. The confidence is the template's soft intersection over union
with the region, both blurred by 0.6 pixels so that single edge pixels weigh little, mapped by `CALIBRATION` so that
GenEval's thresholds mean something here: above 0.9 (counting) a clean shape, above 0.3 a recognisable one. The two knots were
set on corrupted renderings before any model of this project was trained: ground truth with a blur of 0.5 pixels and noise of
10/255 stays above 0.90 IoU, halves and stuck pairs of shapes below 0.75, smeared shapes mostly below 0.82.

Legend: N images, S pixels a side, C regions, W pixels a side of the window around a region.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL.Image import Image
from scipy import ndimage

from evaluators.detection import Detections
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.data.scenes.render import coverage, half_extent

VERSION = 1  # raise it when the same image can get another verdict
CALIBRATION = ((0.0, 0.75, 0.82, 1.0), (0.0, 0.3, 0.9, 1.0))  # IoU -> confidence, piecewise linear
CONTRAST = 0.25  # of a pixel to the background from which it is foreground: about half of a weak colour's
BLUR = 0.6  # pixels, standard deviation
WORKING_RADIUS = 6.0  # pixels: images of larger shapes are averaged down to about this, which keeps the cost
# Turns by 2 pi / fold change nothing; of circle and ring none does.
_FOLDS = {"square": 4, "triangle": 3, "cross": 4, "star": 5, "spool": 2, "bowtie": 2}
_CHUNK_PIXELS = 1 << 21
_IN_IMAGE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]  # four neighbours


@dataclass(frozen=True)
class _Regions:
    """Candidates: image int64 [C], their windows' corners in the image int64 [C] and soft coverage float32 [C, W, W]."""

    image: np.ndarray
    top: np.ndarray
    left: np.ndarray
    alpha: np.ndarray


class SceneDetector:
    """GenEval's `Detector` for one world. A region is reported once, as its best class.

    Regions that match a shape below 0.75 of the world's smallest radius are fragments, ones beyond 1.4 of its largest are
    no shape: neither is reported. Shapes that touch are one region.
    """

    name = "scenes-template"

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self.class_names = config.shapes
        self.revision = f"{VERSION}:{content_hash(asdict(config))[:12]}"
        divisors = [n for n in range(1, config.image_size + 1) if config.image_size % n == 0]
        self._pooling = max(n for n in divisors if n == 1 or n <= config.radius / WORKING_RADIUS)
        self._smallest = 0.75 * config.radius * (1 - config.radius_jitter) / self._pooling
        largest = 1.4 * config.radius * (1 + config.radius_jitter) / self._pooling
        self._side = 2 * int(np.ceil(largest * half_extent(config))) + 4
        self._areas = {shape: _unit_area(shape) for shape in config.shapes}
        self._least_area = min(self._areas.values()) * self._smallest**2

    def detect(self, images: Sequence[Image]) -> list[dict[str, Detections]]:
        """Class name -> its detections, for each image.

        Raises:
            UserError: an image is not of this world's size.
        """
        size = self.config.image_size
        for image in images:
            if image.size != (size, size):
                raise UserError(f"image of {image.size} pixels: this world's are {size} x {size} (data.scenes.image_size)")
        if not images:
            return []
        return self.detect_arrays(np.stack([np.asarray(image.convert("RGB")) for image in images]))

    def detect_arrays(self, images: np.ndarray) -> list[dict[str, Detections]]:
        """The same for uint8 [N, S, S, 3]."""
        step = max(1, _CHUNK_PIXELS // self.config.image_size**2)
        return [found for begin in range(0, len(images), step) for found in self._detect(images[begin : begin + step])]

    def _detect(self, images: np.ndarray) -> list[dict[str, Detections]]:
        n, size = images.shape[:2]
        pool = self._pooling
        pixels = images.astype(np.float32).reshape(n, size // pool, pool, size // pool, pool, 3).mean((2, 4)) / 255
        regions = self._regions(pixels)
        iou = self._template_iou(regions.alpha)
        best = iou.argmax(1)
        scores = np.interp(iou.max(1, initial=0), *CALIBRATION).astype(np.float32)

        found: list[dict[str, list[tuple[np.ndarray, np.float32, np.ndarray]]]] = [{} for _ in range(n)]
        solid = regions.alpha > 0.5  # nowhere true in a region of many colours, whose median no pixel has
        for row in np.flatnonzero((scores > 0) & solid.any((1, 2))):
            mask = _paste(solid[row], regions.top[row], regions.left[row], size // pool).repeat(pool, 0).repeat(pool, 1)
            name = self.config.shapes[best[row]]
            found[regions.image[row]].setdefault(name, []).append((_tight_box(mask), scores[row], mask))
        return [
            {
                name: Detections(np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows]), np.stack([r[2] for r in rows]))
                for name, rows in classes.items()
            }
            for classes in found
        ]

    def _regions(self, pixels: np.ndarray) -> _Regions:
        """Connected foreground of plausible size in float32 [N, S, S, 3], with the share of each pixel that it covers."""
        n = len(pixels)
        background = np.median(pixels.reshape(n, -1, 3), axis=1)
        brightest = pixels.max(-1)
        contrast = np.maximum(brightest - pixels.min(-1), brightest - background.max(-1)[:, None, None])
        labels, count = ndimage.label(contrast > CONTRAST, _IN_IMAGE)
        low = np.array([[axis.start for axis in item] for item in ndimage.find_objects(labels)], np.int64).reshape(-1, 3)
        high = np.array([[axis.stop for axis in item] for item in ndimage.find_objects(labels)], np.int64).reshape(-1, 3)
        area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        fits = (area >= self._least_area) & ((high - low)[:, 1:] <= self._side - 2).all(1)
        ids, low, high = np.flatnonzero(fits) + 1, low[fits], high[fits]

        image, half = low[:, 0], self._side // 2
        top, left = ((low + high)[:, 1:] // 2 - half).T
        span = half + np.arange(self._side)  # windows may reach beyond the image, so index into padded copies
        index = (image[:, None, None], (top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :])
        patch = np.pad(pixels, ((0, 0), (half, half), (half, half), (0, 0)))[index]
        label = np.pad(labels, ((0, 0), (half, half), (half, half)))[index]
        own = label == ids[:, None, None]

        inside = ndimage.binary_erosion(own, _IN_IMAGE)
        inside = np.where(inside.sum((1, 2), keepdims=True) >= 3, inside, own)  # thin regions have no inside
        empty = background[image][:, None, None]
        direction = _masked_median(patch, inside)[:, None, None] - empty
        alpha = ((patch - empty) * direction).sum(-1) / np.maximum((direction**2).sum(-1), 1e-6)
        near = ndimage.binary_dilation(own, np.ones((1, 3, 3), bool)) & ((label == 0) | own)
        return _Regions(image, top, left, np.where(near, np.clip(alpha, 0, 1), 0).astype(np.float32))

    def _template_iou(self, alpha: np.ndarray) -> np.ndarray:
        """Soft IoU of float32 [C, W, W] with the best template of each class, float32 [C, shapes]; 0 for fragments."""
        middles = np.arange(self._side, dtype=np.float32) + np.float32(0.5)
        area = np.maximum(alpha.sum((1, 2)), 1e-6)
        centroid = np.stack([(alpha.sum(1) * middles).sum(1), (alpha.sum(2) * middles).sum(1)], 1) / area[:, None]
        alpha = _blurred(alpha)
        iou = np.zeros((len(alpha), len(self.config.shapes)), np.float32)
        for column, shape in enumerate(self.config.shapes):
            radius = np.sqrt(area / np.float32(self._areas[shape]))
            for turn in self._turns(shape):
                template = _blurred(coverage(shape, centroid, radius, np.full(len(radius), turn, np.float32), self._side))
                union = np.maximum(np.maximum(alpha, template).sum((1, 2)), 1e-6)
                iou[:, column] = np.maximum(iou[:, column], np.minimum(alpha, template).sum((1, 2)) / union)
            iou[radius < self._smallest, column] = 0
        return iou

    def _turns(self, shape: str) -> np.ndarray:
        """Rotations to try, radians, at most 0.1 apart, up to the shape's symmetry."""
        if self.config.rotation == 0 or shape not in _FOLDS:
            return np.zeros(1)
        limit = min(self.config.rotation, np.pi / _FOLDS[shape])
        return np.linspace(-limit, limit, 2 * int(np.ceil(limit / 0.1)) + 1)


def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1, from a large rendering."""
    middle, radius = np.full((1, 2), 150, np.float32), np.full(1, 100, np.float32)
    return float(coverage(shape, middle, radius, None, 300).sum() / 100**2)


def _blurred(alpha: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(alpha, (0, BLUR, BLUR), truncate=3)


def _masked_median(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Per-channel median over the pixels of each mask; float32 [C, W, W, 3] and bool [C, W, W], none empty -> [C, 3]."""
    flat = np.where(mask[..., None], values, np.inf).reshape(len(values), values.shape[1] * values.shape[2], 3)
    flat.sort(axis=1)
    count, row = mask.sum((1, 2)), np.arange(len(values))
    return (flat[row, (count - 1) // 2] + flat[row, count // 2]) / 2


def _paste(window: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """Bool [size, size], false but for the window's part inside it."""
    mask = np.zeros((size, size), bool)
    first_y, first_x = max(top, 0), max(left, 0)
    part = window[first_y - top : size - top, first_x - left : size - left]
    mask[first_y : first_y + part.shape[0], first_x : first_x + part.shape[1]] = part
    return mask


def _tight_box(mask: np.ndarray) -> np.ndarray:
    """Float32 (x1, y1, x2, y2) around the true pixels, maxima exclusive."""
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float32)
