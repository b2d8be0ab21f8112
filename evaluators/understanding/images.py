"""Encoded images of a benchmark as RGB, the way both harnesses do: `convert("RGB")`, no turning, transparency dropped.

`rf_repro.data.shards.images` checks format and size in the header before anything is decoded; how it turns images and puts
transparent ones on white is right for training but would show the model other pixels than the harnesses do.
"""

import io
import warnings

from PIL import Image

from rf_repro.data.shards.images import image_size
from rf_repro.data.shards.samples import CorruptSample, shown

MAX_PIXELS = 100_000_000  # the largest page of DocVQA has under 40 million
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


def rgb_image(data: bytes) -> Image.Image:
    """The first frame.

    Raises:
        CorruptSample: it is no JPEG, PNG, WebP or GIF, has too many pixels, or is damaged.
    """
    try:
        image_size(data, MAX_PIXELS)
    except CorruptSample as problem:  # it names a setting of the training data
        raise CorruptSample(str(problem).replace("data.filters.max_pixels=", "pixels decoded at most: ")) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.convert("RGB")
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise CorruptSample(f"its image cannot be decoded ({shown(error) or type(error).__name__})") from None
