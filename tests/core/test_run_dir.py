"""One experiment is one folder, and a folder is never taken for another experiment's."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.files import append_jsonl, write_json, write_jsonl
from rf_repro.core.records import Attempt, EvalResult, RunRecord
from rf_repro.core.run_dir import RunDir

HASH = "0123456789abcdef" * 4


def create(root: Path, config: dict[str, int] | None = None, config_hash: str = HASH, seed: int = 0) -> RunDir:
    return RunDir.create(root, config or {"width": 8}, config_hash, "tiny", "pixel", seed)


def test_created_and_reopened(tmp_path: Path) -> None:
    run = create(tmp_path)
    assert run.path == tmp_path / "tiny" / "pixel" / "0123456789ab-s0" == RunDir.locate(tmp_path, HASH, "tiny", "pixel", 0).path
    assert run.config() == {"width": 8}
    assert run.record() == RunRecord(scale="tiny", variant="pixel", seed=0, config_hash=HASH)
    record = replace(run.record(), status="done", steps=5, attempts=[Attempt("2026-01-01T00:00:00+00:00", "host", 1, "cpu", 1)])
    run.write_record(record)
    assert create(tmp_path).record() == record  # reopening keeps what was done
    assert [found.path for found in RunDir.find(tmp_path)] == [run.path]
    assert create(tmp_path, seed=1).path != run.path


def test_locate_writes_nothing(tmp_path: Path) -> None:
    RunDir.locate(tmp_path, HASH, "tiny", "pixel", 0)
    assert not any(tmp_path.iterdir())


def test_a_run_is_trained_when_its_steps_are_recorded_or_all_is_done(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "tiny" / "pixel" / f"{HASH[:12]}-s0")
    assert not run.is_trained()
    config = {"stages": [{"name": "pretrain", "steps": 3}, {"name": "joint", "steps": 5}]}
    RunDir.create(tmp_path, config, HASH, "tiny", "pixel", 0)
    for status, steps, trained in (("planned", 0, False), ("running", 3, False), ("failed", 5, True), ("planned", 5, True),
                                   ("done", 0, True)):  # fmt: skip
        run.write_record(replace(run.record(), status=status, steps=steps))  # type: ignore[arg-type]
        assert run.is_trained() == trained


def test_another_config_under_the_same_name_raises(tmp_path: Path) -> None:
    run = create(tmp_path)
    other = HASH[:12] + "f" * 52  # equal in the twelve digits of the folder's name
    with pytest.raises(UserError, match="choose another --runs"):
        create(tmp_path, config_hash=other)
    assert run.record().config_hash == HASH


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    folder = RunDir.locate(tmp_path, HASH, "tiny", "pixel", 0).path
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not a run directory \(holds thesis\.txt"):
        create(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_folders_place_raises(tmp_path: Path) -> None:
    path = RunDir.locate(tmp_path, HASH, "tiny", "pixel", 0).path
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match="is a file"):
        create(tmp_path)


def test_a_folder_from_a_creation_that_was_killed_is_completed(tmp_path: Path) -> None:
    run = RunDir.locate(tmp_path, HASH, "tiny", "pixel", 0)
    write_json(run.config_path, {"width": 8})  # killed before run.json
    (run.path / ".run.json.x1.tmp").write_text("{")
    assert create(tmp_path).record().status == "planned"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_root_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        create(tmp_path / "runs")


def test_a_root_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="runs"):
        create(tmp_path / "runs")


def test_records_of_another_version_raise(tmp_path: Path) -> None:
    run = create(tmp_path)
    write_json(run.record_path, {**run.record().to_dict(), "mood": "good"})
    with pytest.raises(UserError, match="not a RunRecord of this version"):
        run.record()
    data = RunRecord("tiny", "pixel", 0, HASH).to_dict()
    del data["steps"]
    write_json(run.record_path, data)
    with pytest.raises(UserError, match="not a RunRecord of this version"):
        run.record()


def test_metrics_and_evaluations(tmp_path: Path) -> None:
    run = create(tmp_path)
    assert run.metrics() == []
    append_jsonl(run.metrics_path, {"step": 1, "loss": 0.5})
    assert run.metrics() == [{"step": 1, "loss": 0.5}]
    assert run.eval_result("geneval") is None
    result = EvalResult("geneval", "v1", {"overall": 0.5, "colors": None}, 2, 3, failures=1, missing={"colors": "no items"})
    write_jsonl(run.evals / "geneval.items.jsonl", [{"correct": True}])
    run.write_eval("geneval", result)
    assert run.eval_result("geneval") == result
    assert run.eval_names() == ["geneval"]
    assert run.eval_items("geneval") == [{"correct": True}]


def test_scratch_lies_in_the_run_is_no_stranger_there_and_goes(tmp_path: Path) -> None:
    run = RunDir.locate(tmp_path, HASH, "tiny", "pixel", 0)
    run.path.mkdir(parents=True)
    (run.path / ".scratch-killed" / "00000").mkdir(parents=True)
    assert create(tmp_path) == run
    with run.scratch() as folder, run.scratch() as other:
        assert folder != other
        assert folder.parent == run.path
        assert create(tmp_path) == run
        assert RunDir.find(tmp_path) == [run]
    assert [path.name for path in run.path.glob(".*")] == [".scratch-killed"]
    run.remove_leftovers()
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "run.json"]
    with pytest.raises(UserError, match="cannot make a folder in it"), RunDir(run.record_path).scratch():
        pass


def test_a_folder_that_a_user_names_is_a_run(tmp_path: Path) -> None:
    run = create(tmp_path)
    assert RunDir.open(run.path) == run
    for named, begin in (("--run", "--run "), ("", "")):
        with pytest.raises(UserError) as error:
            RunDir.open(tmp_path, named)
        assert str(error.value) == f"{begin}{tmp_path}: is not a run directory (no run.json); `rf-repro plan` prints their paths"


def test_a_result_is_written_after_its_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, result, rows = create(tmp_path), EvalResult("geneval", "p", {"overall": 0.5}, 1, 1), [{"correct": True}]
    assert run.write_eval("geneval", result, rows) == run.evals / "geneval.json"
    assert run.eval_result("geneval") == replace(result, items="geneval.items.jsonl")
    assert run.eval_items("geneval") == rows
    run.write_eval("probe", result)
    assert run.eval_result("probe") == result

    def full(path: Path, rows: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("rf_repro.core.results.write_jsonl", full)
    with pytest.raises(UserError, match="full"):
        run.write_eval("later", result, rows)
    assert run.eval_result("later") is None
