"""Damage of every kind to the files of a folder, drawn from a seed: bytes, values of JSON, and what stands in a file's place."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 10**30, -0.5, 1e308, "", " ", "x" * 100_000, "../../etc/passwd", "/etc/passwd", "~nosuchuser/x",
    "\x1b[31mred\x1b[0m", "\u202egnp.exe", "a\x00b", "=1+1", "<script>alert(1)</script>", "\\input{x}", "\ud800", "1e999",
    [], {}, [[]], [None], {"": {}}, ["x"] * 3, {"a": 1}, "2001-13-45",
)  # fmt: skip
TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"\x00",
    b"\xef\xbb\xbf", b"\r\n", b"\x1b]0;x\x07", b"\xed\xa0\x80", b"null", b"true", b"{}", b"[]", b'"', b"!!float abc",
    b"!!python/object:os.system x", b"&a [*a]", b"*a", b"<<: *a", b"---\n", b"\t", b"- ", b": ", b"~nosuchuser/", b"2001-13-45",
    b"0o17", b"1_000",
)  # fmt: skip
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name + 1, name + 1, b", ".join([b"*%c" % name] * 9)) for name in range(ord("a"), ord("i"))
)


def mutate(folder: Path, draw: random.Random) -> str:
    """Damages one to three files below a folder, which are its own; returns what was done."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    done = []
    for path in draw.sample(files, min(len(files), draw.choice((1, 1, 1, 2, 3)))):
        kinds = [_bytes, _bytes, _place, _lines]
        if path.suffix in (".json", ".jsonl"):
            kinds += [_values] * 5
        done.append(f"{draw.choice(kinds)(path, draw)} of {path.relative_to(folder)}")
    return "; ".join(done)


def _bytes(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data) + 1)
    length = draw.choice((1, 1, 4, 64, 1024))
    match draw.randrange(6):
        case 0:
            what, data[at : at + 1] = "a bit", bytes([data[at] ^ 1 << draw.randrange(8)]) if at < len(data) else b"x"
        case 1:
            what = "a cut"
            del data[at:]
        case 2:
            what = "a gap"
            del data[at : at + length]
        case 3:
            what, data[at:at] = "a repetition", data[at : at + length] * draw.choice((1, 2, 50))
        case 4:
            what, data[at:at] = "a token", draw.choice(TOKENS)
        case _:
            what, data[:] = "another content", draw.choice((b"", BOMB, *TOKENS))
    path.write_bytes(data)
    return what


def _lines(path: Path, draw: random.Random) -> str:
    """Lines in another order, twice, or gone."""
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        chosen = draw.randrange(len(lines))
        other = draw.choice(
            (b"", lines[chosen] * 2, lines[draw.randrange(len(lines))], b"\n", b"{}\n", draw.choice(TOKENS) + b"\n")
        )
        lines[chosen] = other
    path.write_bytes(b"".join(lines))
    return "a line"


def _place(path: Path, draw: random.Random) -> str:
    """Something else where the file was."""
    path.unlink()
    match draw.randrange(6):
        case 0:
            return "absence"
        case 1:
            path.mkdir()
            return "a folder in the place"
        case 2:
            path.symlink_to(path.name)
            return "a link to itself in the place"
        case 3:
            path.symlink_to("/nonexistent/file")
            return "a dangling link in the place"
        case 4:
            os.mkfifo(path)
            return "a pipe in the place"
        case _:
            path.symlink_to("/dev/zero")
            return "a device in the place"


def _values(path: Path, draw: random.Random) -> str:
    """A value of JSON (or of one line of JSON lines) exchanged, removed, doubled or added."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    if not lines:
        return "nothing"
    number = draw.randrange(len(lines))
    try:
        tree = json.loads(lines[number])
    except ValueError:
        return "nothing"
    places = list(_places(tree))
    what = "the whole value"
    if places and draw.random() < 0.97:
        holder, key = draw.choice(places)
        what = f"value {key!r}"
        match draw.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(("new", "", str(key) + " ", "\x1b[0m"))] = holder[key]
            case 1:
                holder.insert(key, holder[key])
            case _:
                holder[key] = draw.choice(HOSTILE)
    else:
        tree = draw.choice(HOSTILE)
    lines[number] = json.dumps(tree)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return what


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value within."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, part in items:
        yield value, key
        yield from _places(part)
