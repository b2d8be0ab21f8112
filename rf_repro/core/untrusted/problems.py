"""What cannot be used of a stranger's file, how much of it is read, and how its words are shown."""

from reprlib import Repr

MAX_IMAGE_BYTES = 256 << 20  # of one encoded image; a larger one is refused before it is read
MAX_RECORD_BYTES = 4 << 20  # of one sample's text, caption, conversation or JSON record
MAX_SHOWN = 120  # characters of a foreign name in a message
MAX_PIXELS = 64_000_000  # of one image that is decoded, 192 MB in RGB; the largest page of DocVQA has under 40 million
MAX_JSON_BYTES = 256 << 20  # of one JSON document; Qwen's tokenizer has 11 million, and Python's objects take ten times a text
MAX_JSONL_BYTES = 1 << 30  # of one JSON-lines file as decompressed; a million rows of metrics take less
MAX_CELL = 2 * MAX_IMAGE_BYTES  # characters of one cell of a table; an image in base64 takes 4/3 of its bytes
MAX_TABLE_BYTES = 256 << 20  # of one CSV that is read whole; DPG-Bench's has 5 million
MAX_YAML_BYTES = 1 << 20  # of one YAML file; PyYAML reads less than that a second
MAX_DEPTH = 64  # of lists and mappings in one another; our own go to 8. Python's own recursion ends near 1000
MAX_DIGITS = 40  # of an integer; 2**128 has 39

_SHORT = Repr()  # of what is nested it shows little: no value is too deep or too long for it
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class CorruptSample(Exception):
    """A sample that cannot be used; its message is one line: which sample (where the raiser knows it), and what is wrong."""


def shown(text: object) -> str:
    """A foreign name or an error's text as part of a one-line message: printable, not long."""
    line = printable(text)
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."


def printable(text: object) -> str:
    """As `shown`, whole: for a message that holds the foreign text in part."""
    line = str(text).strip()
    return line if line.isprintable() else ascii(line)[1:-1]


def shown_value(value: object) -> str:
    """A foreign value as Python writes it, as part of a one-line message: printable, not long."""
    return shown(_SHORT.repr(value))
