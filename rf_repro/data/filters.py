"""Which samples of real data are used, told from texts and image headers before anything is decoded (`data.filters`)."""

import base64
import hashlib
from typing import Literal

import numpy as np

from rf_repro.config.data_schema import FilterConfig

# Why a sample is left out. The last three are found where texts become tokens and images get their size.
Reason = Literal["text too short", "text too long", "image too small", "aspect ratio", "duplicate", "no answer", "over budget"]

MAX_DIGESTS = 32_768  # that a stream remembers of a source; 171 kB in a saved position, if filters.dedup is on


def text_reason(num_chars: int, filters: FilterConfig) -> Reason | None:
    """Why a text of so many characters (all turns of a conversation together) is left out."""
    if num_chars < filters.min_text_chars:
        return "text too short"
    return "text too long" if num_chars > filters.max_text_chars else None


def image_reason(width: int, height: int, filters: FilterConfig) -> Reason | None:
    """Why an image of so many pixels a side is left out."""
    short, long = sorted((width, height))
    if short < filters.min_side:
        return "image too small"
    return "aspect ratio" if long > filters.max_aspect_ratio * short else None


def digest(image: bytes | None, text: str, mode: Literal["image", "image_text"]) -> int:
    """32 bits of what makes a sample a duplicate: its stored image, or that and its text. Without an image, its text.

    Of n samples remembered, a new one is mistaken for a duplicate with probability n / 2**32, at most 1 in 131,072.
    """
    hasher = hashlib.blake2b(digest_size=4)
    hasher.update(b"" if image is None else hashlib.blake2b(image).digest())
    if mode == "image_text" or image is None:
        hasher.update(text.encode("utf-8", "surrogatepass"))
    return int.from_bytes(hasher.digest(), "little")


class Seen:
    """Digests seen in an epoch of a source: the latest MAX_DIGESTS, so that memory and saved positions stay bounded. What was
    seen longer ago, or by another stream, is not recognised."""

    def __init__(self, saved: str = "", capacity: int = MAX_DIGESTS) -> None:
        """`saved`: what `to_json` gave."""
        self.capacity = capacity
        held = np.frombuffer(base64.b64decode(saved), "<u4").tolist()
        self._digests: dict[int, None] = dict.fromkeys(held)  # in order of arrival

    def add(self, value: int) -> bool:
        """Remembers a digest; True where it was new."""
        if value in self._digests:
            return False
        if len(self._digests) == self.capacity:
            del self._digests[next(iter(self._digests))]
        self._digests[value] = None
        return True

    def clear(self) -> None:
        self._digests.clear()

    def to_json(self) -> str:
        """4 bytes a digest, in base64."""
        return base64.b64encode(np.fromiter(self._digests, "<u4", len(self._digests)).tobytes()).decode()
