"""Whatever a finished run loses is made again, and each remedy that a message names leads back to the run as it was."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.core.run_dir import RunDir
from rf_repro.experiment.run import run_variant
from rf_repro.launch.plan import Job
from rf_repro.train.checkpoint import load_checkpoint
from tests.test_pipeline import PIXEL_RF, fast, short_evaluations

__all__ = ["fast"]
Damage = Callable[[RunDir], object]
DELETE = re.compile(r"^(?P<path>\S+): .*; delete (?P<what>it|this folder) ")


def rewritten(path: Path) -> None:
    """Other content of the same length."""
    path.write_bytes(path.read_bytes()[::-1])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def finished(fast: Path) -> Iterator[RunDir]:
    with short_evaluations():
        yield run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=fast / "runs", device="cpu")


@pytest.fixture
def run(finished: RunDir, fast: Path) -> Iterator[RunDir]:
    """A copy of the finished run, its shared stage beside it."""
    root = fast / "damaged"
    shutil.copytree(fast / "runs", root)
    yield RunDir(root / finished.path.relative_to(fast / "runs"))
    shutil.rmtree(root)


def stage_of(run: RunDir) -> RunDir:
    (stage,) = RunDir.find(run.path.parents[1] / "stage-pretrain")
    return stage


def again(run: RunDir) -> None:
    run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=run.path.parents[2], device="cpu")


def state(run: RunDir) -> str:
    return Job(run, PIXEL_RF, "pixel_rf", 0, 0, key="pixel_rf").state


def assert_as_before(run: RunDir, finished: RunDir) -> None:
    assert state(run) == "done"
    record, before = run.record(), finished.record()
    assert (record.steps, record.tokens, record.parameters) == (before.steps, before.tokens, before.parameters)
    assert record.started_from == before.started_from
    assert run.config() == finished.config()
    assert [{**row, "compute_seconds": 0} for row in run.metrics()] == [
        {**row, "compute_seconds": 0} for row in finished.metrics()
    ]
    for name in ("evals", "samples"):
        files = {
            path.relative_to(finished.path): path.read_bytes() for path in (finished.path / name).rglob("*") if path.is_file()
        }
        assert {path.relative_to(run.path): path.read_bytes() for path in (run.path / name).rglob("*") if path.is_file()} == files
    own, other = (load_checkpoint(one.checkpoints / "step-000030") for one in (run, finished))
    for kind in ("weights", "ema", "optimizer"):
        tensors, others = getattr(own, kind), getattr(other, kind)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items()), kind


LOST: dict[str, Damage] = {
    "a score": lambda run: (run.evals / "geneval.json").unlink(),
    "a score's items": lambda run: (run.evals / "geneval.items.jsonl").unlink(),
    "the last point of the curve": lambda run: (run.evals / "geneval-step000030.json").unlink(),
    "a point of the curve": lambda run: (run.evals / "geneval-step000015.items.jsonl").unlink(),
    "all scores": lambda run: shutil.rmtree(run.evals),
    "a sample": lambda run: sorted(run.samples.rglob("*.png"))[7].unlink(),
    "the list of samples": lambda run: (run.samples / "manifest.json").unlink(),
    "all samples": lambda run: shutil.rmtree(run.samples),
    "the last checkpoint": lambda run: shutil.rmtree(run.checkpoints / "step-000030"),
    "all checkpoints": lambda run: shutil.rmtree(run.checkpoints),
    "the log": lambda run: run.metrics_path.unlink(),
    "the record": lambda run: run.record_path.unlink(),
    "the config": lambda run: run.config_path.unlink(),
    "all but the config": lambda run: [shutil.rmtree(run.path / name) for name in ("evals", "samples", "checkpoints")],
}
BACK_TO = {"a point of the curve": 0, "all scores": 0, "the last checkpoint": 20, "all checkpoints": 0, "the log": 0,
           "the last point of the curve": 30, "all but the config": 0}  # fmt: skip


@pytest.mark.parametrize("what", LOST)
def test_what_is_lost_is_made_again(run: RunDir, finished: RunDir, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert state(run) == "done"
    LOST[what](run)
    if what != "the config":
        assert state(run) == ("missing" if what == "the record" else "resumable")
    again(run)
    assert_as_before(run, finished)
    told = [line for line in capsys.readouterr().err.splitlines() if "trains again" in line]
    assert [int(line.split("from step ")[1].split(";")[0]) for line in told] == ([BACK_TO[what]] if what in BACK_TO else [])


DAMAGED: dict[str, Damage] = {
    "a score cut short": lambda run: cut(run.evals / "geneval.json"),
    "a score rewritten": lambda run: rewritten(run.evals / "questions.json"),
    "items rewritten": lambda run: rewritten(run.evals / "geneval.items.jsonl"),
    "a point of the curve": lambda run: cut(run.evals / "geneval-step000030.json"),
    "a sample exchanged": lambda run: shutil.copy(run.samples / "00000/samples/0000.png", run.samples / "00001/samples/0000.png"),
    "a sample cut short": lambda run: cut(run.samples / "00001" / "samples" / "0000.png"),
    "the list of samples": lambda run: cut(run.samples / "manifest.json"),
    "weights cut short": lambda run: cut(run.checkpoints / "step-000030" / "ema-00000.safetensors"),
    "a checkpoint's state": lambda run: cut(run.checkpoints / "step-000030" / "state.json"),
    "the log": lambda run: cut(run.metrics_path),
    "an empty record": lambda run: run.record_path.write_bytes(b""),
    "an empty config": lambda run: run.config_path.write_bytes(b""),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_the_remedy_that_a_message_names_leads_back(run: RunDir, finished: RunDir, what: str) -> None:
    DAMAGED[what](run)
    if what in ("a sample exchanged", "a sample cut short"):  # nobody looks at its content before it is to be scored
        (run.evals / "geneval.json").unlink()
    with pytest.raises(UserError) as error:
        again(run)
    found = DELETE.match(str(error.value))
    assert found, error.value
    path = Path(found["path"])
    assert path.is_relative_to(run.path)
    if found["what"] == "it":
        path.unlink()
    else:
        shutil.rmtree(path if path.is_dir() else path.parent)
    again(run)
    assert_as_before(run, finished)


@pytest.mark.parametrize("what", ["evals", "checkpoints"])
def test_a_shared_stage_is_made_whole_again_and_who_started_from_it_stays(run: RunDir, finished: RunDir, what: str) -> None:
    stage = stage_of(run)
    before = {path.name: path.read_bytes() for path in stage.evals.iterdir()}
    shutil.rmtree(stage.path / what)
    assert not stage.is_trained()
    shutil.rmtree(run.checkpoints)
    again(run)
    assert stage.is_trained()
    assert {path.name: path.read_bytes() for path in stage.evals.iterdir()} == before
    assert_as_before(run, finished)


def test_scores_of_images_that_were_drawn_anew_are_no_scores_of_these(run: RunDir, finished: RunDir) -> None:
    """As on a device whose last bits differ: the images are whole, and others."""
    image = run.images.image_path(0, 0)
    shutil.copy(run.images.image_path(1, 0), image)
    (run.samples / "manifest.json").unlink()
    again(run)
    kept = RunDir(run.path / "earlier-1")
    assert kept.eval_result("geneval") == finished.eval_result("geneval")
    assert run.record().outputs["evaluate"]["samples/manifest.json"] == file_sha256(run.images.manifest_path)
    assert state(run) == "done"


def test_published_records_and_those_of_before_are_believed(run: RunDir) -> None:
    run.write_record(replace(run.record(), outputs={}))
    for name in ("checkpoints", "samples"):
        shutil.rmtree(run.path / name)
    assert state(run) == "done"
    record = json.loads(run.record_path.read_text())
    del record["outputs"]
    run.record_path.write_text(json.dumps(record))
    assert state(run) == "done"
