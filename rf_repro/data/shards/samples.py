"""What a shard holds, whatever its format: samples as stored."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True)
class RawSample:
    """One sample as stored.

    Attributes:
        key: shard and position, for messages: "shard-000.tar:000123".
        image: still encoded (JPEG, PNG, WebP or GIF; unchecked); None where the source's task is text.
        text: a caption, or the text of a text-only sample, without white space around it; "" beside `turns`.
        turns: of a conversation; () otherwise.
    """

    key: str
    image: bytes | None
    text: str
    turns: tuple[Turn, ...]
