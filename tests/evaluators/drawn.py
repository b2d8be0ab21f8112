"""Drawn images of two kinds of rectangles, a detector and a colour classifier that read them exactly, and prompts about them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluators.detection import Detections

RGB = {"red": (220, 20, 30), "green": (20, 160, 40), "blue": (20, 40, 220)}
COW, DOG = (10, 6), (6, 10)  # width and height tell the two classes apart


class RectangleDetector:
    """Finds the drawn rectangles on black by their extent: rows and columns that are not black, per colour channel."""

    name = "rectangles"
    revision = "r1"
    class_names = ("cow", "dog")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def detect(self, images: Sequence[Image.Image]) -> list[dict[str, Detections]]:
        self.batches.append(len(images))
        return [self._detect(np.asarray(image)) for image in images]

    def _detect(self, pixels: np.ndarray) -> dict[str, Detections]:
        boxes: dict[str, list[list[int]]] = {"cow": [], "dog": []}
        for color in RGB.values():
            y, x = np.nonzero((pixels == color).all(-1))
            if len(x):
                size = (int(np.ptp(x)) + 1, int(np.ptp(y)) + 1)
                boxes[{COW: "cow", DOG: "dog"}[size]].append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        return {
            name: Detections(np.array(found, np.float32), np.full(len(found), 0.95, np.float32))
            for name, found in boxes.items()
            if found
        }


class PixelColor:
    name = "pixel"
    revision = "c1"

    def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
        names = {rgb: name for name, rgb in RGB.items()}
        return [names[crop.getpixel((crop.width // 2, crop.height // 2))] for crop in crops]


def draw(*things: tuple[tuple[int, int], int, int, str]) -> Image.Image:
    image = Image.new("RGB", (48, 32))
    for (width, height), x, y, color in things:
        image.paste(RGB[color], (x, y, x + width, y + height))
    return image


PROMPTS: list[dict[str, Any]] = [
    {"tag": "single_object", "prompt": "a cow", "include": [{"class": "cow", "count": 1}]},
    {"tag": "two_object", "prompt": "both", "include": [{"class": "cow", "count": 1}, {"class": "dog", "count": 1}]},
    {
        "tag": "counting", "prompt": "one cow",
        "include": [{"class": "cow", "count": 1}], "exclude": [{"class": "cow", "count": 2}],
    },
    {"tag": "colors", "prompt": "a red cow", "include": [{"class": "cow", "count": 1, "color": "red"}]},
    {
        "tag": "position", "prompt": "a cow left of a dog", "held_out": True,
        "include": [{"class": "dog", "count": 1}, {"class": "cow", "count": 1, "position": ["left of", 0]}],
    },
    {
        "tag": "color_attr", "prompt": "a red cow and a blue dog",
        "include": [{"class": "cow", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "color": "blue"}],
    },
]  # fmt: skip
RED_COW_BLUE_DOG = draw((COW, 2, 10, "red"), (DOG, 36, 10, "blue"))  # right for every prompt
TWO_COWS = draw((COW, 2, 2, "green"), (COW, 2, 20, "blue"))  # right for "a cow" alone


def write_folder(root: Path, images: Sequence[Sequence[Image.Image]], prompts: Sequence[dict[str, Any]] = PROMPTS) -> Path:
    """The images of each prompt in GenEval's layout, without a manifest, as any model's sampling script leaves them."""
    for prompt_id, (metadata, samples) in enumerate(zip(prompts, images, strict=True)):
        folder = root / f"{prompt_id:05d}" / "samples"
        folder.mkdir(parents=True)
        (folder.parent / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")
        for sample, image in enumerate(samples):
            image.save(folder / f"{sample:04d}.png")
    return root
