"""What the detector sees: sizes, padding and normalisation by arithmetic, the resize against OpenCV's to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators.detectors.pixels import Frame, prepare, resize
from tests.evaluators.tiny_mask2former import photograph

CPU = torch.device("cpu")
SIZES = [(512, 512), (1024, 1024), (1600, 1600), (1344, 768), (517, 333), (96, 130), (3, 5), (1, 1), (800, 800)]  # width, height


@pytest.mark.parametrize("size", SIZES)
def test_the_resize_is_opencvs_to_the_bit(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with the extra mmdet", exc_type=ImportError)
    height, width = Frame.of(*size).resized
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for image in (noise, np.asarray(photograph(*size, seed=0))):
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(resize(torch.from_numpy(image.copy()), height, width).numpy(), expected)


def test_the_resize_is_within_one_level_of_exact_interpolation_and_far_from_pillows() -> None:
    image = np.asarray(photograph(1024, 1024, seed=0))
    ours = resize(torch.from_numpy(image.copy()), 800, 800).numpy()
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double(), (800, 800), mode="bilinear", align_corners=False
    )
    assert np.abs(ours - exact[0].permute(1, 2, 0).numpy()).max() < 1
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    pillows = np.asarray(Image.fromarray(noise).resize((800, 800), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(resize(torch.from_numpy(noise), 800, 800).numpy() - pillows).mean() > 10


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 512), (667, 1333), (672, 1344)),  # the long side decides
        ((480, 640), (1067, 800), (1088, 800)),  # the short side does
    ],
)
def test_sizes(size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> None:
    assert Frame.of(*size) == Frame((size[1], size[0]), resized, padded)


def test_sizes_are_mmcvs() -> None:
    mmcv = pytest.importorskip("mmcv", reason="needs the extra mmdet", exc_type=ImportError)
    for width in range(1, 2100, 97):
        for height in range(1, 2100, 89):
            assert Frame.of(width, height).resized[::-1] == mmcv.rescale_size((width, height), (1333, 800))


def test_pixels_are_normalised_and_the_padding_is_grey_128() -> None:
    image = Image.new("RGB", (480, 640), (10, 100, 200))
    pixels, frame = prepare([image, image], CPU)
    assert pixels.shape == (2, 3, *frame.padded)
    assert pixels.dtype == torch.float32
    h, w = frame.resized
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    for part, value in ((pixels[0, :, :h, :w], (10, 100, 200)), (pixels[1, :, h:], (128, 128, 128))):
        expected = ((np.array(value) - mean) / std)[:, None, None]
        np.testing.assert_allclose(part.numpy(), np.broadcast_to(expected, part.shape), rtol=1e-5, atol=1e-6)


def test_a_batch_of_several_sizes_or_modes_is_refused() -> None:
    with pytest.raises(ValueError, match="RGB images of one size"):
        prepare([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], CPU)
    with pytest.raises(ValueError, match="RGB images of one size"):
        prepare([Image.new("L", (8, 8))], CPU)
