"""An endpoint's key: where it may go, and how it is taken out of whatever comes back.

A server, or a proxy before it, may echo what it was sent: whole or in part, escaped or encoded, in errors and in answers. All
that it says is cleaned before it is cut, kept, logged or shown.
"""

import base64
import ipaddress
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import quote

from rf_repro.core.errors import UserError

MARK = "[key]"
PIECE = 8  # characters in a row that tell of a key, wherever they stand
END, CUT = 6, 4  # at an end of an answer, which may have been cut there; of a text that was
LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks")
# A character as JSON, Python, URLs and HTML write it, once or escaped again.
_ESCAPED = re.compile(
    r"\\+u(?P<json>[0-9a-f]{4})|\\+x(?P<python>[0-9a-f]{2})|%(?:25)*(?P<url>[0-9a-f]{2})"
    r"|&(?:amp;)*(?:#x(?P<hexadecimal>[0-9a-f]{1,6})|#(?P<decimal>[0-9]{1,7})|(?P<name>amp|lt|gt|quot|apos));|\\+(?P<plain>[\"'/\\])",
    re.IGNORECASE,
)
_NAMES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class Key:
    """What is sent as bearer token; it never shows itself.

    Raises:
        UserError: it cannot be sent.
    """

    def __init__(self, value: str) -> None:
        if not (value.isascii() and value.isprintable() and " " not in value and value):
            raise UserError("API key: has characters that cannot be sent; set the environment variable again")
        self.value = value
        spellings = {value, value.encode().hex(), value.encode().hex().upper(), quote(value, safe="")}
        for skipped in range(3):  # base64 of any text around it: without the characters that depend on the neighbours
            coded = base64.b64encode(b"\0" * skipped + value.encode()).decode().rstrip("=")
            inner = coded[(0, 2, 3)[skipped] : len(coded) - bool((skipped + len(value)) % 3)]
            spellings |= {inner, inner.replace("+", "-").replace("/", "_")}
        self._spellings = sorted(spellings - {""})
        self._pieces = {
            spelling[start : start + PIECE]
            for spelling in self._spellings
            for start in range(max(1, len(spelling) - PIECE + 1))
            if len(spelling) >= PIECE or spelling == value
        }
        self._sizes = {len(piece) for piece in self._pieces}

    def __repr__(self) -> str:
        return "Key([key])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: each process reads its own environment")

    def clean(self, text: str, is_cut: bool = False) -> str:
        """The text without the key, its encodings and pieces of them.

        Args:
            is_cut: nobody scores it, and it may well begin or end within a key.
        """
        letters, places = _decoded(text)
        marked = bytearray(len(letters))
        for size in self._sizes:
            for start in range(len(letters) - size + 1):
                if letters[start : start + size] in self._pieces:
                    marked[start : start + size] = b"\1" * size
        for spelling in self._spellings:
            for size in range(CUT if is_cut else END, min(len(spelling), PIECE)):
                if letters.endswith(spelling[:size]):
                    marked[-size:] = b"\1" * size
                if letters.startswith(spelling[-size:]):
                    marked[:size] = b"\1" * size
        parts, end = [], 0
        for run in re.finditer(b"\x01+", marked):
            begin, after = places[run.start()][0], places[run.end() - 1][1]
            parts += [text[end:begin], MARK]
            end = after
        return "".join([*parts, text[end:]])

    def clean_tree(self, value: Any) -> Any:
        """JSON with every text of it cleaned, names too."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, list):
            return [self.clean_tree(item) for item in value]
        if isinstance(value, dict):
            return {self.clean(name): self.clean_tree(item) for name, item in value.items()}
        return value

    @contextmanager
    def out_of_logs(self) -> Iterator[None]:
        """What the HTTP libraries log in the block has no key: they write down what a server says."""

        def cleaned(record: logging.LogRecord) -> bool:
            record.msg, record.args = self.clean(record.getMessage()), ()
            return True

        for name in LOGGERS:
            logging.getLogger(name).addFilter(cleaned)
        try:
            yield
        finally:
            for name in LOGGERS:
                logging.getLogger(name).removeFilter(cleaned)


def is_loopback(host: str) -> bool:
    """Whether a host of an address is this machine, in any spelling: `LOCALHOST.`, 127.1, [::ffff:127.0.0.1]."""
    host = host.lower().removesuffix(".").strip("[]")
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # The system's own reading of short forms; without a digit or a point first it is a name.
        if not re.fullmatch(r"[0-9][0-9a-fx.]*", host):
            return False
        try:
            return socket.inet_aton(host)[0] == 127
        except OSError:
            return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _decoded(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The letters that can be seen, escapes undone, and where each of them stands in the text."""
    letters: list[str] = []
    places: list[tuple[int, int]] = []
    end = 0
    for match in [*_ESCAPED.finditer(text), None]:
        until = match.start() if match else len(text)
        for at in range(end, until):
            if text[at].isprintable() and text[at] != " ":
                letters.append(text[at])
                places.append((at, at + 1))
        if match:
            end = match.end()
            letter = _unescaped(match)
            if letter.isprintable() and letter != " ":
                letters.append(letter)
                places.append((match.start(), end))
    return "".join(letters), places


def _unescaped(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    said = match[kind]
    if kind == "plain":
        return said
    if kind == "name":
        return _NAMES[said.lower()]
    code = int(said, 10 if kind == "decimal" else 16)
    return chr(code) if 0 < code < 0x110000 else "\0"
