"""`rf-repro data`: help without heavy imports, one line for a mistake, and a run that survives being killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.cli import main, make_parser
from rf_repro.core.files import read_jsonl
from tests.evaluators.tiny_chat import save_tiny_chat
from tests.killing import kill_at
from tests.test_cli import HEAVY, parser_of

COMMANDS = (["data"], ["data", "fetch"], ["data", "rewrite"], ["data", "scenes"], ["data", "inspect"])
ROWS = [{"tag": "counting", "include": [{"class": "cow", "count": n}], "prompt": f"a photo of {n} cows"} for n in range(1, 25)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_loads_nothing_heavy_and_its_example_parses(command: list[str]) -> None:
    code = (
        "import sys\nfrom rf_repro.cli import main\n"
        f"try: main({[*command, '--help']})\n"
        f"except SystemExit as end: print('LOADED', end.code, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED 0 []"
    parser = parser_of(command)
    assert parser.epilog is not None
    arguments = parser.epilog.removeprefix("example: rf-repro ").split()
    assert arguments[: len(command)] == command
    assert make_parser().parse_args(arguments).run is not None
    for action in parser._actions:
        if action.option_strings and not action.required and action.nargs != 0:
            assert "(default: " in (action.help or ""), action.option_strings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data fetch mnist", "invalid choice: 'mnist'"),
        ("data fetch geneval --set long", "invalid choice: 'long'"),
        ("data fetch geneval --out prompts.jsonl/below", "--out prompts.jsonl/below: "),
        ("data rewrite absent.jsonl --model m --out o.jsonl", "absent.jsonl: no such prompt set"),
        ("data rewrite prompts.jsonl --model m", "the following arguments are required: --out"),
        (
            "data rewrite prompts.jsonl --model m --out prompts.jsonl",
            "prompts.jsonl: is there already, without prompts.cache.jsonl",
        ),
        ("data rewrite prompts.jsonl --model m --out o.jsonl --max-new-tokens 0", "--max-new-tokens 0: must be >= 1"),
        ("data rewrite prompts.jsonl --model m --out o.jsonl --batch-size 0", "--batch-size 0: must be >= 1"),
        ("data rewrite prompts.jsonl --model m --out o.jsonl --template prompts.jsonl", "holds no {prompt}"),
        ("data rewrite prompts.jsonl --model ./m --out o.jsonl", "--model ./m: must be a folder that exists, or a hub id"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    Path("prompts.jsonl").write_text(text)
    try:
        status = main(arguments.split())
    except SystemExit as end:  # argparse
        status = int(str(end.code))
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("rf-repro: error: ")
    assert message in line
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"prompts.jsonl": text}


@pytest.mark.slow
def test_rewriting_goes_on_after_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_chat(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "template.txt").write_text("Describe {prompt} in many words.")
    command = ["data", "rewrite", str(tmp_path / "prompts.jsonl"), "--model", str(tmp_path / "model"), "--template",
               str(tmp_path / "template.txt"), "--max-new-tokens", "100", "--batch-size", "2", "--device", "cpu",
               "--out"]  # fmt: skip

    capsys.readouterr()  # of saving the model
    assert main([*command, str(tmp_path / "whole.jsonl")]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    lines = printed.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'whole.jsonl'}  24 prompts, set custom-")
    assert lines[1].endswith("were cut at --max-new-tokens 100; a larger value lets them end")

    cache = tmp_path / "killed.cache.jsonl"
    kill_at(str(cache), 7, main, [*command, str(tmp_path / "killed.jsonl")])
    assert not (tmp_path / "killed.jsonl").exists()
    kept = len(read_jsonl(cache))
    assert 5 < kept < 1 + len(ROWS)

    assert main([*command, str(tmp_path / "killed.jsonl")]) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert cache.read_bytes() == (tmp_path / "whole.cache.jsonl").read_bytes()
