"""Encoded images, looked at before they are decoded: format and size from the header. No other room opens an image.

Only JPEG, PNG, WebP and GIF are opened, by Pillow's own classes of these formats: `Image.open` would guess among all formats,
and its guard against decompression bombs is a global that any other code may change.
"""

import io
import struct
import warnings
from pathlib import Path

from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, MAX_PIXELS, CorruptSample, shown

ORIENTATION = 0x0112  # EXIF tag
LIMIT = "pixels decoded at most: "


def image_size(data: bytes, max_pixels: int, limit: str = LIMIT) -> tuple[int, int]:
    """(width, height) in pixels from the header, as EXIF's orientation turns it; no pixel is decoded.

    Args:
        limit: what `max_pixels` is called where an image has more.

    Raises:
        CorruptSample: not an image, or one of more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(data, max_pixels, limit) as image:
                width, height = image.size
                return (height, width) if orientation_of(image) >= 5 else (width, height)
    except CorruptSample:
        raise
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise CorruptSample(f"its image cannot be read ({reason(error)})") from None


def decoded_image(data: bytes) -> ImageFile:
    """Pillow's image with its pixels decoded, as they are stored.

    Raises:
        CorruptSample: not an image, one of more than `MAX_PIXELS`, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(data, MAX_PIXELS)
            image.load()
            return image
    except CorruptSample:
        raise
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise CorruptSample(f"its image cannot be decoded ({reason(error)})") from None


def read_image(path: Path, missing: str = "no such file") -> ImageFile:
    """A file's image with its pixels decoded.

    Raises:
        UserError: as of `read_bytes` and `decoded_image`; the line begins with the path.
    """
    try:
        return decoded_image(read_bytes(path, MAX_IMAGE_BYTES, missing))
    except CorruptSample as problem:
        raise UserError(f"{path}: {problem}; make it again") from None


def open_image(data: bytes, max_pixels: int, limit: str = LIMIT) -> ImageFile:
    """Pillow's image with its header read and its size checked. Raises CorruptSample, or any error of Pillow's."""
    file = io.BytesIO(data)
    image: ImageFile
    if data.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(file)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        image = PngImageFile(file)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
        _check_size(width, height, max_pixels, limit)
        image = GifImageFile(file)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _check_size(*_webp_size(data), max_pixels, limit)  # Pillow makes room for the whole canvas as it opens the file
        image = WebPImageFile(file)
    else:
        raise CorruptSample("its image is not JPEG, PNG, WebP or GIF" if data else "its image is empty")
    _check_size(*image.size, max_pixels, limit)
    return image


def _check_size(width: int, height: int, max_pixels: int, limit: str) -> None:
    if width < 1 or height < 1:
        raise CorruptSample(f"its image is of {width} x {height} pixels")
    if width * height > max_pixels:
        raise CorruptSample(f"its image is of {width} x {height} pixels; {limit}{max_pixels}")


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


def orientation_of(image: ImageFile) -> int:
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
    return int(value) if value in range(1, 9) else 1


def reason(error: Exception) -> str:
    """Of one of Pillow's errors, some of which say nothing."""
    return shown(error) or type(error).__name__
