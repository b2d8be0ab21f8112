"""Image files read once, several at a time, to the hash by which everything is known of them; and read again as the same."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image

from rf_repro.core.errors import UserError

T = TypeVar("T")
READERS = 8  # threads; hashing and decoding release the interpreter's lock
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on damaged files


def read_images(
    paths: Sequence[Path],
    look: Callable[[Image.Image], T],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[str, T] | str]:
    """Of each file (SHA-256 of its bytes, what `look` makes of the image), or why it is no image.

    It is decoded whole: damage is known before any model is loaded.

    Args:
        look: called in several threads; where it raises one of `UNREADABLE`, the file is damaged.
        progress: called with (files read, files in all).
    """
    found: list[tuple[str, T] | str] = []
    with ThreadPoolExecutor(READERS) as pool:
        for read in pool.map(lambda path: _read(path, look), paths):
            found.append(read)
            progress(len(found), len(paths))
    return found


def _read(path: Path, look: Callable[[Image.Image], T]) -> tuple[str, T] | str:
    try:
        data = path.read_bytes()
        image = Image.open(BytesIO(data))
        image.load()
        return hashlib.sha256(data).hexdigest(), look(image)
    except FileNotFoundError:
        return "no such file"
    except UNREADABLE as error:
        return f"cannot be read ({error})".replace("\n", " ")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels once turned as its EXIF orientation says."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientations on the side
    return (image.height, image.width) if turned else image.size


def reopen(path: Path, sha256: str) -> Image.Image:
    """The image of a file that was read before. Raises UserError when the file has changed since."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: changed while it was being scored; wait until all images are there, then start again")
    return Image.open(BytesIO(data))
