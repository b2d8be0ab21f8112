"""What cannot be used of a stranger's file, how much of it is read, and how its words are shown."""

MAX_IMAGE_BYTES = 256 << 20  # of one encoded image; a larger one is refused before it is read
MAX_RECORD_BYTES = 4 << 20  # of one sample's text, caption, conversation or JSON record
MAX_SHOWN = 120  # characters of a foreign name in a message


class CorruptSample(Exception):
    """A sample that cannot be used; its message is one line: which sample (where the raiser knows it), and what is wrong."""


def shown(text: object) -> str:
    """A foreign name or an error's text as part of a one-line message: printable, not long."""
    line = str(text).strip()
    line = line if line.isprintable() else ascii(line)[1:-1]
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."
