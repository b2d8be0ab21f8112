"""Every field of every record in a run's folder, as of another type: one line with the file and the field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rf_repro.core.action_dir import ActionDir, ActionRecord, ShareRecord
from rf_repro.core.errors import UserError
from rf_repro.core.files import append_jsonl, write_jsonl
from rf_repro.core.image_folder import ImageFolder, Origin, SampleEntry
from rf_repro.core.records import Attempt, EvalResult, RunRecord
from rf_repro.core.run_dir import RunDir

ATTEMPT = Attempt("2026-01-01T00:00:00+00:00", "host", 1, "cpu", 1, seconds=1.5, error="two\nlines")
RECORD = RunRecord("tiny", "pixel", 0, "0" * 64, "done", versions={"torch": "2"}, parameters={"all": 3}, attempts=[ATTEMPT])
RESULT = EvalResult("geneval", "protocol", {"overall": 0.5, "two_object": None}, 1, 1, missing={"two_object": "none"})
ORIGIN = Origin("tiny", "pixel", 0, "0" * 64, 10, "ema", 32, 32, 0, 4, "0" * 64, 8)
WRONG: tuple[Any, ...] = (-1.5, "\x1b[31m", True, None, [[]], {"a": {"b": []}}, 10**39)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path, {"stages": []}, "0" * 64, "tiny", "pixel", 0)
    run.write_record(RECORD)
    run.write_eval("geneval", RESULT, [{"tag": "counting", "correct": True, "prompt_id": 1, "sample": 0, "prompt": "two",
                                        "reason": None, "details": {"cow": [[1, 2, 3, 4, 0.5]]}}])  # fmt: skip
    append_jsonl(run.metrics_path, {"step": 1, "loss": 0.5, "tokens": 3, "compute_seconds": 1.0})
    folder = ImageFolder(run.samples)
    folder.begin(ORIGIN)
    folder.finish([SampleEntry(0, 0, 0, "0" * 64)], 1)
    actions = ActionDir.of(run, "geneval")
    actions.finish(ActionRecord("geneval", "0", {}, ["geneval"], "now"))
    actions.share((0, 1)).write(ShareRecord("0", attempts=[ATTEMPT]))
    return run


READERS: dict[str, Callable[[RunDir], Any]] = {
    "run.json": RunDir.record,
    "config.json": RunDir.config,
    "metrics.jsonl": RunDir.metrics,
    "evals/geneval.json": lambda run: run.eval_result("geneval"),
    "evals/geneval.items.jsonl": lambda run: run.eval_items("geneval"),
    "samples/origin.json": lambda run: ImageFolder(run.samples).origin(),
    "samples/manifest.json": lambda run: ImageFolder(run.samples).entries(),
    "actions/geneval/record.json": lambda run: ActionDir.of(run, "geneval").record(),
    "actions/geneval/1-of-1/share.json": lambda run: ActionDir.of(run, "geneval").share((0, 1)).record(),
}
OPEN = {"config.json", "actions/geneval/record.json"}  # hold settings, whose fields are another's business


def wrong_of(value: Any) -> list[Any]:
    """Values of another type than that of `value`; of one that is None, none that is surely wrong."""
    return [other for other in WRONG if value is not None and type(other) is not type(value) and other is not None]


@pytest.mark.parametrize("name", READERS)
def test_whole_records_are_read(name: str, run: RunDir) -> None:
    READERS[name](run)


@pytest.mark.parametrize("name", [name for name in READERS if name not in OPEN])
def test_a_field_of_another_type_is_named(name: str, run: RunDir) -> None:
    path = run.path / name
    whole = json.loads(path.read_text())
    tried = 0
    for field, value in whole.items():
        for other in wrong_of(value):
            if (isinstance(value, float) and type(other) is int) or (field == "correct" and type(other) in (int, float)):
                continue  # a whole number is a number; what is right in part is correct by a share
            path.write_text(json.dumps({**whole, field: other}) + "\n")
            with pytest.raises(UserError) as error:
                READERS[name](run)
            line = str(error.value)
            assert str(path) in line
            assert field in line.removeprefix(str(path))
            assert line.isprintable()
            tried += 1
    assert tried > 3


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"attempts": [{}]}, "attempts[0]: not a Attempt of this version"),
        ({"attempts": [{**ATTEMPT.__dict__, "pid": -1}]}, "attempts[0]: pid: is -1, must be an integer >= 0"),
        ({"attempts": 3}, "attempts: is 3, must be a list"),
        ({"parameters": {"all": -1}}, "parameters.all: is -1, must be an integer >= 0"),
        ({"versions": {"\x1b[31m": 1}}, "versions.\\x1b[31m: is 1, must be text"),
        ({"status": "finished"}, "status: is 'finished', must be planned, running, done or failed"),
        ({"seed": True}, "seed: is True, must be an integer"),
        ({"compute_seconds": -0.5}, "compute_seconds: is -0.5, must be a number >= 0"),
    ],
)
def test_what_lies_deeper_is_named_too(change: dict[str, Any], where: str, run: RunDir) -> None:
    run.record_path.write_text(json.dumps({**RECORD.to_dict(), **change}))
    with pytest.raises(UserError) as error:
        run.record()
    assert str(error.value).startswith(f"{run.record_path}: {where}")


def test_rows_name_their_line_and_what_they_lack(run: RunDir) -> None:
    append_jsonl(run.metrics_path, {"loss": 1.0})
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: has no field 'step'"):
        [row["step"] for row in run.metrics()]
    write_jsonl(run.evals / "geneval.items.jsonl", [{"details": {"cow": [[1, 2, 3]]}}])
    with pytest.raises(UserError, match=r"items\.jsonl:1: details\.cow\[0\]: is \[1, 2, 3\], must be a list of 5"):
        run.eval_items("geneval")
