"""What reaches the colour classifier, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from evaluators.detection import Detections
from evaluators.geneval.crops import object_crops, upright_rgb

ORIENTATION = 0x0112  # EXIF tag


def noise(width: int = 12, height: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def one(box: list[float], mask: np.ndarray | None = None) -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.9], np.float32), None if mask is None else mask[None])


def test_outside_the_mask_is_grey_and_the_box_is_cut() -> None:
    pixels = noise()
    mask = np.zeros((8, 12), bool)
    mask[2:5, 3:7] = True
    mask[2, 3] = False
    (crop,) = object_crops(Image.fromarray(pixels), one([2, 1, 8, 6], mask))
    expected = np.where(mask[..., None], pixels, np.uint8(0x99))[1:6, 2:8]
    assert np.array_equal(np.asarray(crop), expected)


def test_without_masks_the_box_alone_is_cut() -> None:
    pixels = noise()
    (crop,) = object_crops(Image.fromarray(pixels), one([2, 1, 8, 6]))
    assert np.array_equal(np.asarray(crop), pixels[1:6, 2:8])


def test_corners_round_halves_to_even() -> None:
    pixels = noise()
    (crop,) = object_crops(Image.fromarray(pixels), one([1.5, 0.5, 6.5, 5.6]))
    assert np.array_equal(np.asarray(crop), pixels[0:6, 2:6])


def test_each_object_has_its_own_mask_and_box() -> None:
    pixels = noise()
    masks = np.zeros((2, 8, 12), bool)
    masks[0, :, :6] = masks[1, :, 6:] = True
    boxes = np.array([[0, 0, 12, 8], [4, 2, 9, 7]], np.float32)
    crops = object_crops(Image.fromarray(pixels), Detections(boxes, np.float32([0.9, 0.8]), masks))
    assert np.array_equal(np.asarray(crops[0])[:, :6], pixels[:, :6])
    assert (np.asarray(crops[0])[:, 6:] == 0x99).all()
    assert (np.asarray(crops[1])[:, :2] == 0x99).all()
    assert np.array_equal(np.asarray(crops[1])[:, 2:], pixels[2:7, 6:9])


def test_exif_orientation_is_applied_before_cropping() -> None:
    """Orientation 6: the stored image has to be turned a quarter clockwise."""
    pixels = noise()
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = 6
    upright = np.rot90(pixels, -1)
    assert np.array_equal(np.asarray(upright_rgb(image)), upright)
    mask = np.zeros((12, 8), bool)
    mask[3:9, 1:5] = True
    (crop,) = object_crops(image, one([1, 3, 5, 9], mask))
    assert np.array_equal(np.asarray(crop), upright[3:9, 1:5])


def test_palette_and_transparency_become_plain_rgb() -> None:
    pixels = noise()
    rgba = Image.fromarray(np.dstack([pixels, np.full((8, 12), 7, np.uint8)]))
    (crop,) = object_crops(rgba, one([0, 0, 12, 8]))
    assert crop.mode == "RGB"
    assert np.array_equal(np.asarray(crop), pixels)
    (crop,) = object_crops(Image.new("P", (4, 4), 0), one([0, 0, 4, 4]))
    assert crop.mode == "RGB"


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(12, 8\).*\(8, 12\)"):
        object_crops(Image.fromarray(noise()), one([0, 0, 4, 4], np.ones((12, 8), bool)))
