"""Encoded images: their size from the header, their pixels, and pixels of another size.

Only JPEG, PNG, WebP and GIF are decoded, by Pillow's own classes of these formats: `Image.open` would guess among all formats,
and its guard against decompression bombs is a global that any other code may change.
"""

import io
import struct
import warnings

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rf_repro.data.shards.samples import CorruptSample, shown

ORIENTATION = 0x0112  # EXIF tag
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
    """(width, height) in pixels from the header, as EXIF's orientation turns it; no pixel is decoded.

    Raises:
        CorruptSample: not an image, or one of more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(data, max_pixels) as image:
                width, height = image.size
                return (height, width) if _orientation(image) >= 5 else (width, height)
    except CorruptSample:
        raise
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise CorruptSample(f"its image cannot be read ({_reason(error)})") from None


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """The first frame as uint8 [H, W, 3]: turned as EXIF says, transparency over white, 16 bits scaled to 8.

    Raises:
        CorruptSample: it cannot be decoded, or has more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(data, max_pixels) as image:
                orientation = _orientation(image)
                pixels = _to_rgb(image)
                if orientation in TRANSPOSITIONS:
                    pixels = pixels.transpose(TRANSPOSITIONS[orientation])
                return np.array(pixels)
    except CorruptSample:
        raise
    except Exception as error:
        raise CorruptSample(f"its image cannot be decoded ({_reason(error)})") from None


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [height, width, 3], antialiased (Lanczos) from the largest centred part of the same aspect ratio."""
    rows, columns = image.shape[:2]
    scale = min(rows / height, columns / width)
    used_width, used_height = min(width * scale, columns), min(height * scale, rows)
    left, top = (columns - used_width) / 2, (rows - used_height) / 2
    box = (left, top, left + used_width, top + used_height)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box))


def _open(data: bytes, max_pixels: int) -> ImageFile:
    """Pillow's image with its header read and its size checked. Raises CorruptSample, or any error of Pillow's."""
    file = io.BytesIO(data)
    image: ImageFile
    if data.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(file)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        image = PngImageFile(file)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
        _check_size(width, height, max_pixels)
        image = GifImageFile(file)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _check_size(*_webp_size(data), max_pixels)  # Pillow makes room for the whole canvas as it opens the file
        image = WebPImageFile(file)
    else:
        raise CorruptSample("its image is not JPEG, PNG, WebP or GIF" if data else "its image is empty")
    _check_size(*image.size, max_pixels)
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise CorruptSample(f"its image is of {width} x {height} pixels")
    if width * height > max_pixels:
        raise CorruptSample(f"its image is of {width} x {height} pixels; data.filters.max_pixels={max_pixels}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the first chunk: extended, lossless or lossy."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X" and len(body) == 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise CorruptSample("its image is a damaged WebP")


def _orientation(image: ImageFile) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none that can be read: many cameras write EXIF that is damaged."""
    raw = image.info.get("exif")
    if not raw:
        return 1
    try:
        exif = Image.Exif()
        exif.load(raw)
        value = exif.get(ORIENTATION, 1)
    except Exception:  # Pillow's parser raises many kinds on damaged EXIF; the pixels are what matters
        return 1
    return value if value in TRANSPOSITIONS else 1


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


def _reason(error: Exception) -> str:
    return shown(error) or type(error).__name__
