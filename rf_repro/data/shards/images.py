"""Encoded images of training data: their size, their pixels, and pixels of another size."""

import warnings

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from rf_repro.core.untrusted import image_header
from rf_repro.core.untrusted.image_header import open_image, orientation_of, reason
from rf_repro.core.untrusted.problems import CorruptSample

LIMIT = "data.filters.max_pixels="
# How to turn an image so that it stands as EXIF's orientation says (1: as stored).
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """As of `image_header`, where the limit is the setting of the training data."""
    return image_header.image_size(data, max_pixels, LIMIT)


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """The first frame as uint8 [H, W, 3]: turned as EXIF says, transparency over white, 16 bits scaled to 8.

    Raises:
        CorruptSample: it cannot be decoded, or has more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(data, max_pixels, LIMIT) as image:
                orientation = orientation_of(image)
                pixels = _to_rgb(image)
                if orientation in TRANSPOSITIONS:
                    pixels = pixels.transpose(TRANSPOSITIONS[orientation])
                return np.array(pixels)
    except CorruptSample:
        raise
    except Exception as error:
        raise CorruptSample(f"its image cannot be decoded ({reason(error)})") from None


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [height, width, 3], antialiased (Lanczos) from the largest centred part of the same aspect ratio."""
    rows, columns = image.shape[:2]
    scale = min(rows / height, columns / width)
    used_width, used_height = min(width * scale, columns), min(height * scale, rows)
    left, top = (columns - used_width) / 2, (rows - used_height) / 2
    box = (left, top, left + used_width, top + used_height)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box))


def _to_rgb(image: ImageFile) -> Image.Image:
    """Decodes; transparency over white."""
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's older versions in 32 bits
        grey = np.asarray(image).astype(np.float32)
        return Image.fromarray((grey / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")
