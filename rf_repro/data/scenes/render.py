"""Draws scenes: anti-aliased shapes by signed distance, on dark grey backgrounds.

N images, S pixels a side, M objects at most. Pixel (row i, column j) covers [j, j+1] x [i, i+1]; x runs right, y down.
"""

from collections.abc import Callable

import numpy as np

from rf_repro.config.data_schema import ScenesConfig

# RGB in [0, 1]. Far from each other and brighter than any background, so that the classifier has room for a model's errors.
RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.05, 0.08),
    "orange": (1.00, 0.52, 0.02),
    "yellow": (0.98, 0.95, 0.15),
    "green": (0.08, 0.72, 0.15),
    "blue": (0.10, 0.30, 0.98),
    "purple": (0.52, 0.12, 0.78),
    "pink": (1.00, 0.45, 0.80),
    "brown": (0.52, 0.27, 0.08),
    "white": (0.97, 0.97, 0.97),
}
_CHUNK_PIXELS = 1 << 19  # pixels rendered at a time: the temporaries stay in cache

Field = np.ndarray  # float32, broadcastable to [N, S, S]


def _triangle(x: Field, y: Field) -> Field:
    """Equilateral, circumradius 1.15."""
    return np.maximum(y, np.float32(np.sqrt(0.75)) * np.abs(x) - np.float32(0.5) * y) - np.float32(0.575)


def _cross(x: Field, y: Field) -> Field:
    """Two bars of length 2 and width 0.64."""
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(1), np.minimum(x, y) - np.float32(0.32))


def _star(x: Field, y: Field) -> Field:
    """Five points, outer radius 1, inner 0.48: folded into one tenth, there the distance to one straight edge."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - np.float32(sector) * np.round(angle / np.float32(sector)))
    radius = np.hypot(x, y)
    tip, notch = np.array([1.0, 0.0]), 0.48 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    normal = np.array([notch[1], tip[0] - notch[0]]) / np.hypot(*(tip - notch))
    return radius * (np.cos(angle) * np.float32(normal[0]) + np.sin(angle) * np.float32(normal[1])) - np.float32(normal @ tip)


def _spool(x: Field, y: Field) -> Field:
    """Two triangles on a square's edges, tip to tip, with a neck of width 0.44."""
    x, y = np.abs(x), np.abs(y)
    return np.maximum(y - np.float32(0.82), np.minimum(x - np.float32(0.22), np.float32(np.sqrt(0.5)) * (x - y)))


# Signed distance to the outline (negative inside), in units of the radius, from the centroid; near corners a lower bound,
# which is enough for anti-aliasing. Unrotated, every shape's box fits into 2 x 2.
DISTANCE: dict[str, Callable[[Field, Field], Field]] = {
    "circle": lambda x, y: np.hypot(x, y) - np.float32(0.95),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - np.float32(0.82),
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - np.float32(0.74)) - np.float32(0.23),
    "spool": _spool,
    "bowtie": lambda x, y: _spool(y, x),
}


_TIPS = {"triangle": (3, 1.15), "star": (5, 1.0)}  # number and distance of the tips, for shapes whose box is off their centroid


def half_extent(config: ScenesConfig) -> float:
    """Half the longest side of any shape's bounding box, in radii (rotated, the square's diagonal)."""
    return 1.0 if config.rotation == 0 else 1.16


def box_center(shape: str, rotation: np.ndarray) -> np.ndarray:
    """Centre of the bounding box from the centroid, float32 [N, 2] in radii, at rotations float32 [N] in radians."""
    if shape not in _TIPS:
        return np.zeros((len(rotation), 2), np.float32)
    number, reach = _TIPS[shape]
    angles = rotation[:, None] + (2 * np.pi / number * np.arange(number) - np.pi / 2).astype(np.float32)
    tips = reach * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return (tips.min(1) + tips.max(1)) / 2


def coverage(shape: str, centroid: np.ndarray, radius: np.ndarray, rotation: np.ndarray | None, size: int) -> np.ndarray:
    """Share of each pixel that the shape covers, by the signed distance at the pixel's centre.

    Args:
        shape: a name of `DISTANCE`.
        centroid: float32 [N, 2], x and y in pixels.
        radius: float32 [N], pixels.
        rotation: float32 [N], radians, clockwise on the screen; None for none.
        size: S, pixels.

    Returns:
        float32 [N, S, S] in [0, 1].
    """
    pixels = np.arange(size, dtype=np.float32) + np.float32(0.5)
    scale = radius[:, None, None]
    x = (pixels[None, None, :] - centroid[:, 0, None, None]) / scale
    y = (pixels[None, :, None] - centroid[:, 1, None, None]) / scale
    if rotation is not None:
        cos, sin = np.cos(rotation)[:, None, None], np.sin(rotation)[:, None, None]
        x, y = cos * x + sin * y, cos * y - sin * x
    return np.clip(np.float32(0.5) - DISTANCE[shape](x, y) * scale, 0, 1)


def background(kind: str, draws: np.ndarray, size: int) -> np.ndarray:
    """Grey backgrounds between 0.05 and 0.25 (0.31 with texture).

    Args:
        kind: "plain": one level; "graded": from one level to another along a random direction; "textured": graded with
            a sinusoidal grating of random direction and of 3 to 8 periods an image.
        draws: float64 [N, 6], uniform in [0, 1).
        size: S, pixels.

    Returns:
        float32 [N, S, S].
    """
    u = draws.astype(np.float32)[:, :, None, None]
    start, end = 0.05 + 0.2 * u[:, 0], 0.05 + 0.2 * u[:, 1]
    if kind == "plain":
        return np.broadcast_to(start, (len(draws), size, size))
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size - np.float32(0.5)
    x, y = axis[None, None, :], axis[None, :, None]

    def along(turn: np.ndarray) -> np.ndarray:
        return x * np.cos(2 * np.pi * turn) + y * np.sin(2 * np.pi * turn)

    grey = start + (end - start) * np.clip(along(u[:, 2]) + 0.5, 0, 1)
    if kind == "textured":
        grey = grey + 0.06 * np.sin(2 * np.pi * ((3 + 5 * u[:, 4]) * along(u[:, 3]) + u[:, 5]))
    return np.maximum(grey, 0).astype(np.float32)


def render(
    config: ScenesConfig,
    shape: np.ndarray,
    color: np.ndarray,
    center: np.ndarray,
    radius: np.ndarray,
    rotation: np.ndarray | None,
    background_draws: np.ndarray,
) -> np.ndarray:
    """Images of scenes.

    Args:
        shape, color: int64 [N, M], indices into the config's lists; shape is -1 where there is no object.
        center: float32 [N, M, 2], pixels: of the shapes' bounding boxes, by which GenEval judges positions.
        radius: float32 [N, M], pixels.
        rotation: float32 [N, M], radians, or None.
        background_draws: float64 [N, 6].

    Returns:
        uint8 [N, S, S, 3].
    """
    size = config.image_size
    palette = np.array([RGB[name] for name in config.colors], np.float32)
    images = np.empty((len(shape), size, size, 3), np.uint8)
    step = max(1, _CHUNK_PIXELS // size**2)
    for begin in range(0, len(shape), step):
        part = slice(begin, begin + step)
        grey = background(config.background, background_draws[part], size)
        canvas = np.repeat(grey[..., None], 3, axis=-1)
        for slot in range(shape.shape[1]):
            for index, name in enumerate(config.shapes):
                rows = np.flatnonzero(shape[part, slot] == index)
                turn = None if rotation is None else rotation[part, slot][rows]
                size_of = radius[part, slot][rows]
                offset = box_center(name, np.zeros(len(rows), np.float32) if turn is None else turn)
                centroid = center[part, slot][rows] - offset * size_of[:, None]
                alpha = coverage(name, centroid, size_of, turn, size)[..., None]
                canvas[rows] += alpha * (palette[color[part, slot][rows]][:, None, None, :] - canvas[rows])
        images[part] = np.rint(canvas * 255)
    return images
