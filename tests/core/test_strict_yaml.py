"""YAML that says another thing than it seems to is refused, wherever a user writes some: files and `--set` alike."""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rf_repro.commands.options import data_overrides
from rf_repro.config.overrides import parse_override
from rf_repro.core.errors import UserError
from rf_repro.core.strict_yaml import read_strict_yaml
from rf_repro.core.untrusted.problems import MAX_YAML_BYTES

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


def set_value(text: str, folder: Path) -> Any:
    return parse_override(f"path={text}")[1]


def from_file(text: str, folder: Path) -> Any:
    (folder / "some.yaml").write_text(text)
    return read_strict_yaml(folder / "some.yaml")


@pytest.mark.parametrize("read", [set_value, from_file])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((text, f'{re.escape(text)} without quotes is another number to YAML, .*write "{re.escape(text)}", or a number in plain')
          for text in ("1:30", "-1:30", "190:20:30", "1:30.5", "017", "+017", "0x1F", "0b11", "1_000", "1_000.5")),
        ("{a: 1, b: 2, a: 3}", "key 'a' is given twice"),
        ("[{a: 1, 'a': 1}]", "key 'a' is given twice"),
        ("{true: a, yes: b}", "key 'yes' is given twice, first as 'true'"),
        ("{1: a, 1.0: b}", "key '1.0' is given twice, first as '1'"),
        ("{null: 1, ~: 2}", "key '~' is given twice, first as 'null'"),
        ("{1: a, true: b}", "key 'true' is given twice, first as '1'"),
        ("[&a {x: 1}, {<<: *a, <<: *a}]", "key '<<' is given twice"),
        ("!!float abc", "not valid YAML"),
        ("!!float ''", "not valid YAML"),
        ("!!bool maybe", "not valid YAML"),
        ("!!int ''", "is another number to YAML"),
        ('!!int "\\e[31m"', r"\\x1b\[31m without quotes"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ("9" * 5000, "an integer of 5000 digits"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("&a [*a]", "an alias stands within what it names"),
        ("[1", "expected ',' or ']'"),
        ("*nobody", "found undefined alias"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_say_what_it_seems_to(read: Callable[[str, Path], Any], text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        read(text, tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("read", [set_value, from_file])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", "5e-5"), ("5.0e-5", 5e-5), ("-1.5", -1.5), (".5", 0.5), (".inf", math.inf), ("12", 12), ("-3", -3), ("0", 0),
        ("+5", 5), ("+1.5", 1.5), ("{1: a, '1': b}", {1: "a", "1": "b"}),
        ("null", None), ("~", None), ("", None), ("true", True), ("no", False), ("0o17", "0o17"), ("2001-13-45", "2001-13-45"),
        ("2001-01-02", "2001-01-02"), ("[a, 1, 2.5]", ["a", 1, 2.5]), ("{a: {b: c}}", {"a": {"b": "c"}}), ("'1:30'", "1:30"),
        ("hub:some/name", "hub:some/name"), ("[&a [x], *a]", [["x"], ["x"]]),
    ],
)  # fmt: skip
def test_what_keeps_its_meaning(read: Callable[[str, Path], Any], text: str, value: Any, tmp_path: Path) -> None:
    found = read(text, tmp_path)
    assert (type(found), found) == (type(value), value)


def test_a_merge_may_be_overridden(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\n"
    assert from_file(text, tmp_path)["mine"] == {"a": 1, "b": 3}


def test_aliases_do_not_multiply(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stands for more than 100000 values"):
        from_file(BOMB, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- name: a\n  path: x\n  path: y\n", "{file}:3: key 'path' is given twice; mend this line"),
        ("- name: a\n  path: x\n  weight: 1:30\n", "{file}:3: 1:30 without quotes is another number to YAML"),
        ("sources: [\n", "{file}:2: "),
        (BOMB, "{file}:1: stands for more than"),
        ("- {name: a, path: ~nosuchuser/x}\n", "{file}: path='~nosuchuser/x': "),
        ("\xff", "{file}: is not UTF-8 near byte 0"),
        ("3\n", "{file}: must be a list of sources"),
    ],
)
def test_data_files_are_read_so(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as refused:
        data_overrides(argparse.Namespace(data=path))
    assert str(refused.value).startswith("--data " + message.format(file=path))
    assert len(str(refused.value).splitlines()) == 1


def test_pipes_and_large_files_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"some\.yaml: is a pipe or a device"):
        read_strict_yaml(path)
    path.unlink()
    path.write_text("a: 1\n" + "#" * MAX_YAML_BYTES)
    with pytest.raises(UserError, match=r"some\.yaml: has more than 1,048,576 bytes"):
        read_strict_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_strict_yaml(path) == {"a": 1}
