"""What a shard holds, whatever its format: samples as stored, and the ones that cannot be used."""

from dataclasses import dataclass

MAX_IMAGE_BYTES = 256 << 20  # of one encoded image; a larger one is refused before it is read
MAX_RECORD_BYTES = 4 << 20  # of one sample's text, caption, conversation or JSON record
MAX_SHOWN = 120  # characters of a foreign name in a message


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


class CorruptSample(Exception):
    """A sample that cannot be used; its message is one line: which sample (where the raiser knows it), and what is wrong."""


def shown(text: object) -> str:
    """A foreign name or an error's text as part of a one-line message: printable, not long."""
    line = str(text).strip()
    line = line if line.isprintable() else ascii(line)[1:-1]
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."
