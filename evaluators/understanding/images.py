"""Encoded images of a benchmark as RGB, the way both harnesses do: `convert("RGB")`, no turning, transparency dropped.

`image_header` checks format and size before anything is decoded. How training data are read (turned, transparent images on white)
would show the model other pixels than the harnesses do.
"""

import io
import warnings

from PIL import Image

from rf_repro.core.untrusted.image_header import image_size
from rf_repro.core.untrusted.problems import CorruptSample, shown

MAX_PIXELS = 100_000_000  # the largest page of DocVQA has under 40 million
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


def rgb_image(data: bytes) -> Image.Image:
    """The first frame.

    Raises:
        CorruptSample: it is no JPEG, PNG, WebP or GIF, has too many pixels, or is damaged.
    """
    image_size(data, MAX_PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.convert("RGB")
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise CorruptSample(f"its image cannot be decoded ({shown(error) or type(error).__name__})") from None
