"""From PIL images to what Mask2Former sees, as mmdet 2.27's test pipeline prepared it for GenEval.

Keep-ratio resize into 1333 x 800, padding to a multiple of 32 with grey 128, then normalisation: mmdet 3 pads after it, with
0, which is another grey. Images of ratio 1:1 need no padding at all.

Legend: B images, H x W pixels of the originals, h x w resized, P x Q padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

LONG_SIDE, SHORT_SIDE = 1333, 800  # pixels
DIVISOR = 32
PADDING = 128.0
MEAN = (123.675, 116.28, 103.53)  # RGB, of 0..255
STD = (58.395, 57.12, 57.375)
_COEFFICIENT_BITS = 11


@dataclass(frozen=True)
class Frame:
    """Sizes of a batch on its way through the detector, each (height, width) in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int) -> "Frame":
        """Resized so that the long side is at most 1333 and the short side at most 800, one of them exactly."""
        scale = min(LONG_SIDE / max(width, height), SHORT_SIDE / min(width, height))
        h, w = int(height * scale + 0.5), int(width * scale + 0.5)
        return cls((height, width), (h, w), (-(-h // DIVISOR) * DIVISOR, -(-w // DIVISOR) * DIVISOR))


def prepare(images: Sequence[Image], device: torch.device) -> tuple[Tensor, Frame]:
    """(pixels float32 [B, 3, P, Q] normalised, sizes) of RGB images of one size.

    Raises:
        ValueError: images of several sizes or another mode.
    """
    kinds = {(image.mode, image.size) for image in images}
    if len(kinds) != 1 or next(iter(kinds))[0] != "RGB":
        raise ValueError(f"a batch of {sorted(kinds)}: must be RGB images of one size")
    frame = Frame.of(*images[0].size)
    h, w = frame.resized
    pixels = torch.full((len(images), 3, *frame.padded), PADDING, device=device)
    for row, image in zip(pixels, images, strict=True):
        resized = resize(torch.from_numpy(np.array(image)).to(device), h, w)
        row[:, :h, :w] = resized.permute(2, 0, 1)  # [h, w, 3] -> [3, h, w]
    mean, std = (torch.tensor(value, device=device)[:, None, None] for value in (MEAN, STD))
    return (pixels - mean) / std, frame


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of uint8 [H, W, 3] to int32 [height, width, 3] in 0..255, to the bit as `cv2.resize` does it.

    OpenCV works in fixed point: weights of 11 bits; rows are blended at full precision, columns with two truncations. One
    value in eight differs by 1 from the exact result rounded. Pillow's bilinear filter is no substitute: it averages over
    an area when it shrinks.
    """
    left, right, near, far = _taps(image.shape[1], width, True, image.device)
    values = image.to(torch.int32)
    blended = values[:, left] * near[:, None] + values[:, right] * far[:, None]  # [H, width, 3], 19 bits
    blended >>= 4
    top, bottom, near, far = _taps(image.shape[0], height, False, image.device)
    total = (blended[top] * near[:, None, None] >> 16) + (blended[bottom] * far[:, None, None] >> 16)
    return ((total + 2) >> 2).clamp(0, 255)


def _taps(size: int, new_size: int, snap: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(first index, second index, first weight, second weight) of the two pixels each new pixel is blended from.

    Beyond the outermost centres both indices are the border's. There horizontal weights `snap` to it while vertical ones
    stay, which the truncations make visible.
    """
    centre = ((np.arange(new_size) + 0.5) * (size / new_size) - 0.5).astype(np.float32)
    first = np.floor(centre).astype(np.int64)
    share = centre - first.astype(np.float32)
    if snap:
        share[(first < 0) | (first >= size - 1)] = 0
    indices = [np.clip(index, 0, size - 1) for index in (first, first + 1)]
    one = np.float32(1 << _COEFFICIENT_BITS)
    weights = [np.rint(weight * one).astype(np.int32) for weight in (1 - share, share)]
    first_index, second_index, first_weight, second_weight = (torch.from_numpy(a).to(device) for a in (*indices, *weights))
    return first_index, second_index, first_weight, second_weight
