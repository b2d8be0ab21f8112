"""Image files read once, several at a time, to the hash by which everything is known of them; and read again as the same."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.image_header import decoded_image, reason
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, CorruptSample

T = TypeVar("T")
READERS = 8  # threads; hashing and decoding release the interpreter's lock


def read_images(
    paths: Sequence[Path],
    look: Callable[[Image.Image], T],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[str, T] | str]:
    """Of each file (SHA-256 of its bytes, what `look` makes of the image), or why it is no image.

    It is decoded whole: damage is known before any model is loaded.

    Args:
        look: called in several threads; where it raises anything, the file is damaged.
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
        data = read_bytes(path, MAX_IMAGE_BYTES)
        image = decoded_image(data)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    except CorruptSample as problem:
        return str(problem)
    try:
        return hashlib.sha256(data).hexdigest(), look(image)
    except Exception as error:  # Pillow raises errors of many kinds on what it finds only now, in EXIF for example
        return f"cannot be read ({reason(error)})"


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels once turned as its EXIF orientation says."""
    exif = image.getexif()
    orientation = exif.get(0x0112, 1)
    if orientation != 1:
        exif.tobytes()  # whoever turns it writes its EXIF anew: damage in it is known now
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size


def reopen(path: Path, sha256: str) -> Image.Image:
    """The image of a file that was read before. Raises UserError when the file has changed since."""
    data = read_bytes(path, MAX_IMAGE_BYTES)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: changed while it was being scored; wait until all images are there, then start again")
    try:
        return decoded_image(data)
    except CorruptSample as problem:
        raise UserError(f"{path}: {problem}; make it again") from None
