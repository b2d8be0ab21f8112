"""Where objects stand: centres on a grid, apart from each other, in the asked relation. Drawn by rejection, so uniform."""

import math

import numpy as np

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.draws import choice
from rf_repro.data.scenes.render import half_extent

_FIRST_DRAW = 1000  # earlier draw numbers belong to the world
_TRIES = 16  # layouts tried per pass
_PASSES = 2000


class Layouts:
    """Draws centres for scenes of a world.

    Raises:
        UserError: `config.max_objects` objects, or some relation, do not fit into the image.
    """

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        largest = config.radius * (1 + config.radius_jitter) * half_extent(config)
        margin = math.ceil(largest)
        self.cells = np.arange(margin, config.image_size - margin + 1, config.grid_step, dtype=np.float64)
        self.largest = 2 * largest
        # 0.8: below the shortest side of any shape's box, the square's 0.82 diameters
        self.smallest = 2 * config.radius * (1 - config.radius_jitter) * 0.8
        if not len(self.cells):
            raise UserError(
                f"data.scenes.radius={config.radius}: no object fits into image_size={config.image_size} pixels; make it smaller"
            )
        probe = np.arange(4, dtype=np.uint64)
        self.draw(probe[:1], np.array([config.max_objects]), np.array([-1]))
        self.draw(probe, np.full(4, 2), np.arange(4))

    def draw(self, keys: np.ndarray, counts: np.ndarray, relations: np.ndarray) -> np.ndarray:
        """Centres of each scene's objects, uniform over the valid layouts.

        Args:
            keys: uint64 [N].
            counts: int64 [N], objects of each scene.
            relations: int64 [N], index into RELATIONS that object 1 must hold to object 0, or -1.

        Returns:
            float32 [N, max_objects, 2], x and y in pixels, 0 where there is no object.
        """
        centers = np.zeros((len(keys), self.config.max_objects, 2), np.float32)
        for count in np.unique(counts):
            rows = np.flatnonzero(counts == count)
            for attempt in range(_PASSES):
                draws = _FIRST_DRAW + (attempt * _TRIES + np.arange(_TRIES))[:, None] * 2 * count + np.arange(2 * count)
                cells = choice(keys[rows, None, None], draws, len(self.cells))
                tried = self.cells[cells].reshape(len(rows), _TRIES, count, 2)
                valid = self._valid(tried, relations[rows, None])
                found, first = valid.any(1), valid.argmax(1)
                centers[rows[found], :count] = tried[found, first[found]]
                rows = rows[~found]
                if not len(rows):
                    break
            else:
                raise UserError(
                    f"data.scenes: {count} objects at least min_distance={self.config.min_distance} pixels apart (and in any "
                    f"relation, if 2) do not fit into image_size={self.config.image_size}; lower min_distance or max_objects"
                )
        return centers

    def _valid(self, centers: np.ndarray, relations: np.ndarray) -> np.ndarray:
        """Bool [...] for float64 centres [..., count, 2] and relations broadcastable to [...]."""
        count = centers.shape[-2]
        valid = np.ones(centers.shape[:-2], bool)
        for i in range(count):
            for j in range(i):
                valid &= np.hypot(*np.moveaxis(centers[..., i, :] - centers[..., j, :], -1, 0)) >= self.config.min_distance
        if count == 2:
            valid &= (relations < 0) | self._holds(centers[..., 1, :] - centers[..., 0, :], relations)
        return valid

    def _holds(self, offset: np.ndarray, relations: np.ndarray) -> np.ndarray:
        """Whether GenEval's rule finds this relation and no other, whatever the objects' sizes.

        GenEval takes 0.1 of the boxes' summed sizes off |offset| and compares with half its norm. The margin of 0.08 of the
        norm keeps the verdict when the detected boxes are half a pixel off.
        """
        vertical = relations % 2 == 1
        norm = np.maximum(np.hypot(offset[..., 0], offset[..., 1]), 1e-9)
        along = np.where(vertical, offset[..., 1], offset[..., 0])
        across = np.abs(np.where(vertical, offset[..., 0], offset[..., 1]))
        along = np.where(relations < 2, -along, along)  # left of and above: towards smaller coordinates
        return (along - 0.2 * self.largest > 0.58 * norm) & (across - 0.2 * self.smallest < 0.42 * norm)
