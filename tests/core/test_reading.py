"""Files of others, hostile ones: each ends in one printable line with the file's name, at once, and never in a traceback."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rf_repro.core import reading
from rf_repro.core.errors import UserError
from rf_repro.core.reading import read_json, read_jsonl, read_object
from rf_repro.core.typed import Count
from rf_repro.core.untrusted.csv_text import csv_rows
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import read_bytes, read_text
from rf_repro.core.untrusted.problems import MAX_DEPTH, MAX_DIGITS

HOSTILE = {
    b"": "Expecting value",
    b"{": "Expecting property name",
    b"[" * 60_000: "nested too deeply",
    b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1): "nested too deeply",
    b'{"a":' * 5000 + b"1" + b"}" * 5000: "nested too deeply",
    b'["' + b'\\"' * 100_000 + b"[" * 100_000: "nterminated string",  # looked through in linear time
    b"9" * 5000: "an integer of 5000 digits",
    b"-" + b"1" * MAX_DIGITS: f"an integer of {MAX_DIGITS + 1} digits",
    b"NaN": "NaN is not a number",
    b'{"a": -Infinity}': "-Infinity is not a number",
    b"[1e999]": "1e999 is too large",
    b'{"a": 1, "b": {"c": 1, "c": 2}}': "key 'c' is given twice",
    b'{"\\u001b[31m": 1, "\\u001b[31m": 2}': "is given twice",
    b'"\\ud800"': "half a surrogate pair",
    b'{"\\udfff": 1}': "half a surrogate pair",
    b'"\xff"': "not UTF-8",
    '"a"'.encode("utf-16"): "not UTF-8",
    b"[1] 2": "Extra data",
}


def refusal(read: Any, *arguments: Any) -> str:
    """The one line that a reader refuses with."""
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("content", HOSTILE, ids=[text[:30] for text in HOSTILE.values()])
def test_hostile_json_is_one_line_with_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    line = refusal(read_json, path)
    assert line.startswith(f"{path}: not valid JSON (")
    assert HOSTILE[content] in line
    path.write_bytes(b'{"step": 1}\n' + content.replace(b"\n", b" ") + b'\n{"step": 2}\n')
    if content:
        assert refusal(read_jsonl, path).startswith(f"{path}:2: not valid JSON (")


@pytest.mark.parametrize(
    "text",
    [
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "9" * MAX_DIGITS,
        "1e308",
        '"\\ud83d\\ude00"',
        '"' + "[{" * 1000 + '"',
        '"\\\\" ',
        "[[],[]]",
    ],
)
def test_what_is_within_the_limits_is_read_as_python_reads_it(text: str) -> None:
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_marks_line_ends_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b"")
    assert read_jsonl(path) == []
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, problem in (
        ("pipe", "is a pipe or a device"),
        ("folder", "is a folder"),
        ("loop", "Too many levels of symbolic links"),
        ("gone", "no such file"),
        ("nul\0", "null byte"),
        ("half\ud800", "surrogates not allowed"),
        ("x" * 5000, "name too long"),
    ):
        for read in (read_json, read_jsonl):
            assert problem in refusal(read, tmp_path / name)
    assert "is a pipe or a device" in refusal(read_json, Path("/dev/zero"))


def test_files_larger_than_their_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b"[" + b" " * 100 + b"]")
    assert read_bytes(path, 102) == path.read_bytes()
    assert "more than 101 bytes" in refusal(read_bytes, path, 101)
    monkeypatch.setattr(reading, "MAX_JSONL_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b'{"a": 1}\n' + b" " * (64 << 20)))
    assert bomb.stat().st_size < 1 << 20
    assert "expands to more than 1,048,576 bytes" in refusal(read_jsonl, bomb)


def test_fields_are_of_their_types_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    hints = {"done": Count, "phase": str}
    for content, problem in (
        ("[]", f"{path}: is [], must be a JSON object"),
        ('{"done": -1}', f"{path}: done: is -1, must be an integer >= 0"),
        ('{"done": true}', f"{path}: done: is True, must be an integer"),
        ('{"done": 1.5}', f"{path}: done: is 1.5, must be an integer"),
        ('{"phase": null}', f"{path}: phase: is None, must be text"),
        ('{"phase": {"\\u001b[31m": [1]}}', f"{path}: phase: is "),
    ):
        path.write_text(content)
        assert refusal(read_object, path, hints).startswith(problem)
    path.write_text('{"done": 1, "other": null}')
    found = read_object(path, hints)
    assert found == {"done": 1, "other": None}
    assert refusal(found.__getitem__, "phase").startswith(f"{path}: has no field 'phase'")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"done": 1}\n[]\n')
    assert refusal(read_jsonl, rows).startswith(f"{rows}:2: is [], must be a JSON object")
    rows.write_text('\n{"done": 1}\n{"done": "1"}\n')
    assert refusal(read_jsonl, rows, hints).startswith(f"{rows}:3: done: is '1', must be an integer")


def test_texts_and_tables(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes(b"\xef\xbb\xbfa\xff")
    assert refusal(read_text, path, 100).startswith(f"{path}: is not UTF-8 near byte")
    assert list(csv_rows(['"a\n', 'b",c\r\n', "\r\n", "d\n"])) == [["a\nb", "c"], [], ["d"]]
    with pytest.raises(ValueError, match="NUL"):
        list(csv_rows(["a\0b"]))
    assert len(next(csv_rows(["x" * 200_000]))[0]) == 200_000  # more than Python's own limit
