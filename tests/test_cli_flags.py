"""What the library says of its fields is said of a command's flags."""

from pathlib import Path

import pytest

from rf_repro.cli import main, make_parser
from rf_repro.commands.flags import with_flags
from tests.evaluators.tiny_geneval import write_noise, write_prompts

FLAGS = {"batch_size": "--batch-size", "partial": "--partial", "data": "--data", "source": "--from", "out": "--out"}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("batch_size=0: must be >= 1", "--batch-size 0: must be >= 1"),
        ("complete it, or give partial=True; or not", "complete it, or give --partial; or not"),
        ("data='/no such: place': no such folder", "--data /no such: place: no such folder"),
        ('data="it\'s": no such folder', "--data it's: no such folder"),
        ("try again, or give source=FILE", "try again, or give --from FILE"),
        ("name another out=FOLDER, or delete it (batch_size=4)", "name another --out FOLDER, or delete it (--batch-size 4)"),
        ("rules=3, model.data=4, my_out=5, ?out == 6", "rules=3, model.data=4, my_out=5, ?out == 6"),
    ],
)
def test_fields_become_flags(said: str, shown: str) -> None:
    assert with_flags(said, FLAGS) == shown


def evaluate(*arguments: str) -> list[str]:
    return ["evaluate", *arguments, "--device", "cpu", "--out", "out"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (evaluate("geneval", "images", "--prompts", "prompts.jsonl"), "complete the folder, or give --partial; prompts other"),
        (evaluate("geneval", "images", "--batch-size", "0"), "--batch-size 0: must be >= 1"),
        (evaluate("geneval", "images", "--images-per-prompt", "0"), "--images-per-prompt 0: must be >= 1"),
        (evaluate("geneval", "images", "--detector", "mmdet", "--prompts", "prompts.jsonl", "--images-per-prompt", "2"),
         "--detector mmdet: give --weights FILE"),
        (evaluate("dpg", "images", "--model", "openai:x@http://localhost:1/v1", "--csv", "none.csv"),
         "none.csv: no such file; name another --csv"),
        (evaluate("geneval-vlm", "images", "--model", "openai:x", "--prompts", "prompts.jsonl", "--images-per-prompt", "2"),
         "--model openai:x: must be openai:NAME@http"),
        (evaluate("understanding", "--benchmarks", "mmmu", "--model", "x", "--data", "none"), "--data none: no such folder"),
        (evaluate("understanding", "--benchmarks", "mmmu", "--model", "x", "--data", "none", "--protocol", "y"),
         "--protocol y: must be lmms-eval, vlmevalkit or bagel"),
        (["data", "rewrite", "prompts.jsonl", "--model", "x", "--out", "long.jsonl", "--template", "none"],
         "--template none: cannot be read"),
    ],
)  # fmt: skip
def test_commands_say_flags(
    command: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(tmp_path / "images", write_prompts(tmp_path / "prompts.jsonl"), 2)
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not any(f"{name}=" in error for name in FLAGS)


def test_every_benchmark_speaks_so() -> None:
    for name in ("geneval", "geneval2", "geneval-vlm", "dpg", "understanding"):
        required = ["--model", "x", "--out", "out"] if name != "geneval" else []
        required += ["--benchmarks", "mmmu", "--data", "hub"] if name == "understanding" else ["images"]
        assert make_parser().parse_args(["evaluate", name, *required]).run.__qualname__.startswith("speak_flags")
