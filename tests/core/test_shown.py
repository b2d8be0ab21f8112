"""Nothing that is printed can steer a terminal or forge a line."""

import ast
import io
import sys
from pathlib import Path

import pytest

from rf_repro.cli import main
from rf_repro.core.errors import UserError
from rf_repro.core.shown import one_line, one_line_each, say

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "a\x1b[2J\x1b]0;title\x07\r\nrf-repro: error: forged\u202egnp.\u2066\u2028\u0085\x9b31m\u200b\udcff[bold]"


def test_what_cannot_be_seen_is_shown_as_its_code() -> None:
    assert one_line("plain é 漢 − 🙂 [x] 'q'") == "plain é 漢 − 🙂 [x] 'q'"
    assert one_line("\x1b[31m\n\u202e\udcff") == "\\x1b[31m\\n\\u202e\\udcff"
    for code in [*range(0x3000), 0x1D173, 0xE0001, 0xFEFF, 0xFFF9, *range(0xD800, 0xE000)]:
        said = one_line(f"<{chr(code)}>")
        assert said.isprintable()
        assert said.encode()
    assert one_line_each({"\x1b": ["\n", 1, None, ("\r",)]}) == {"\\x1b": ["\\n", 1, None, ["\\r"]]}


def test_each_argument_is_one_line() -> None:
    file = io.StringIO()
    say("first\nstill first", Path("a\x1bb"), 3, file=file)
    assert file.getvalue() == "first\\nstill first\na\\x1bb\n3\n"


COMMANDS = (
    "report --runs {}", "report --runs runs --out {}", "train --scale {}", "{}", "config {}", "plan --grid {}:GRID",
    "reproduce --tables {}", "reproduce --set {}=1", "sample {} --prompt x", "evaluate geneval {} --detector scenes",
    "evaluate compare {} {}", "export {} --out x", "sweep plan table3a --profile {}", "data rewrite {} --model ./m --out o.jsonl",
    "data inspect --data {}", "evaluate geneval2 {} --model openai:m@http://localhost:1/v1 --out o",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_name_is_one_printable_line_of_an_error(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [part.replace("{}", HOSTILE) for part in command.split(" ")]
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stderr.flush()
    said = capfd.readouterr()
    assert status == 2
    lines = said.err.removesuffix("\n").split("\n")
    assert len(lines) == 1
    assert lines[0].startswith("rf-repro: error: ")
    assert lines[0].isprintable()
    assert said.out == ""


def test_a_hostile_file_is_one_printable_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    (folder / "profile.yaml").write_text("x: 1")
    assert main(["sweep", "plan", "table3a", "--profile", str(folder / "profile.yaml")]) == 2
    (line,) = capfd.readouterr().err.removesuffix("\n").split("\n")
    assert line.isprintable()
    assert "unknown key 'x'" in line


def test_what_a_file_holds_does_not_fill_the_screen() -> None:
    error = UserError(f"mine.yaml: time={'9' * 5000!r}: must be minutes; write 30m")
    assert len(str(error)) < 2_000
    assert str(error).startswith("mine.yaml: time='999")
    assert str(error).endswith("9': must be minutes; write 30m")


def prints(source: str) -> list[str]:
    """Calls that write past `say`: `print`, and a stream's own `write`."""
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [name for name in called if name in ("print", "sys.stdout.write", "sys.stderr.write", "os.write")]


def test_there_is_no_other_way_out() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): prints(path.read_text(encoding="utf-8"))
        for package in ("rf_repro", "evaluators", "reports", "slurm", "ablations")
        for path in (ROOT / package).rglob("*.py")
    }
    own = {"rf_repro/core/shown.py", "rf_repro/experiment/measure.py"}  # the latter speaks JSON to the process that started it
    assert {name for name, calls in found.items() if calls} == own
    assert prints("print(1)\nsys.stderr.write('x')") == ["print", "sys.stderr.write"]


def test_an_error_of_a_user_is_printable_and_no_longer_than_a_reader_reads() -> None:
    assert str(UserError("a\x1b[31mred\u202e\nsecond line")) == "a\\x1b[31mred\\u202e\nsecond line"
    assert len(str(UserError("\x00" * 10_000))) < 2_000
    assert str(UserError("first " + "x" * 3_000 + " last")).startswith("first x")
    assert str(UserError("first " + "x" * 3_000 + " last")).endswith("x last")
