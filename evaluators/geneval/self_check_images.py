"""What the self-check shows to the models: drawn from formulas alone, so the same pixels on every machine."""

import hashlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from evaluators.geneval.crops import BACKGROUND
from evaluators.geneval.metadata import COLORS

WIDTH, HEIGHT = 320, 240  # pixels
Pixels = npt.NDArray[np.uint8]


def probe_images() -> list[Image.Image]:
    """Two scenes with shapes that a COCO detector may take for a traffic light, a stop sign, a ball and a screen."""
    street = _gradient((150, 190, 235), (95, 95, 100))
    _box(street, (60, 30, 100, 150), (25, 25, 25))
    _box(street, (77, 150, 83, 240), (60, 60, 60))
    for y, color in ((52, (230, 30, 30)), (90, (240, 200, 30)), (128, (30, 190, 60))):
        _disc(street, (80, y), 14, color)
    _octagon(street, (220, 90), 46, (250, 250, 250))
    _octagon(street, (220, 90), 42, (190, 20, 30))
    _box(street, (216, 136, 224, 240), (120, 120, 120))

    table = _gradient((225, 220, 205), (140, 95, 55))
    _disc(table, (85, 165), 45, (235, 130, 30))
    _disc(table, (70, 150), 10, (250, 190, 120))
    _box(table, (170, 50, 295, 135), (20, 20, 22))
    _box(table, (177, 57, 288, 128), (60, 110, 180))
    _box(table, (222, 135, 243, 160), (20, 20, 22))
    return [Image.fromarray(street), Image.fromarray(table)]


def probe_crops() -> tuple[list[Image.Image], list[str]]:
    """(RGB crops, their class names): a disc of each of GenEval's colours on a mask's grey, square or elongated by turns."""
    crops = []
    for index, color in enumerate(COLORS):
        width, height = ((120, 120), (260, 100), (100, 260))[index % 3]
        pixels = np.full((height, width, 3), ImageColor.getrgb(BACKGROUND), np.uint8)
        _disc(pixels, (width // 2, height // 2), min(width, height) // 2 - 4, ImageColor.getrgb(color))
        crops.append(Image.fromarray(pixels))
    return crops, [("sports ball", "cup")[index % 2] for index in range(len(COLORS))]


def probes_digest() -> str:
    """SHA-256 of all that is shown: references to other drawings are of no use."""
    crops, names = probe_crops()
    digest = hashlib.sha256("\n".join(names).encode())
    for image in (*probe_images(), *crops):
        digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()


def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Pixels:
    rows = np.linspace(top, bottom, HEIGHT).round().astype(np.uint8)
    return np.repeat(rows[:, None], WIDTH, axis=1)


def _offsets(pixels: Pixels, centre: tuple[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    return np.abs(x - centre[0]), np.abs(y - centre[1])


def _box(pixels: Pixels, box: tuple[int, int, int, int], color: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = color


def _disc(pixels: Pixels, centre: tuple[int, int], radius: int, color: tuple[int, ...]) -> None:
    x, y = _offsets(pixels, centre)
    pixels[x * x + y * y <= radius * radius] = color


def _octagon(pixels: Pixels, centre: tuple[int, int], radius: int, color: tuple[int, ...]) -> None:
    x, y = _offsets(pixels, centre)
    pixels[(np.maximum(x, y) <= radius) & (5 * (x + y) <= 7 * radius)] = color  # 7/5 for the square root of two
