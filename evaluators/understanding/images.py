"""Encoded images of a benchmark as RGB, the way both harnesses do: `convert("RGB")`, no turning, transparency dropped.

`image_header` checks format and size before anything is decoded. How training data are read (turned, transparent images on white)
would show the model other pixels than the harnesses do.
"""

from PIL import Image

from rf_repro.core.untrusted.image_header import decoded_image


def rgb_image(data: bytes) -> Image.Image:
    """The first frame.

    Raises:
        CorruptSample: it is no JPEG, PNG, WebP or GIF, has too many pixels, or is damaged.
    """
    return decoded_image(data).convert("RGB")
