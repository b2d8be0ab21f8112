"""An action of an evaluation plan of which something was lost is made again; one whose result holds something else says so."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rf_repro.config.overrides import config_of
from rf_repro.core.action_dir import ActionDir
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.evaluations.plan import EvaluationPlan
from rf_repro.launch.plan import Job
from tests.evaluations.test_perform import do, do_all, evaluations, plan, whole, world

__all__ = ["plan", "whole", "world"]
Damage = Callable[[RunDir], object]


@pytest.fixture
def run(whole: RunDir, tmp_path: Path) -> RunDir:
    """A copy of a run with every action done."""
    root = whole.path.parents[2]
    shutil.copytree(root, tmp_path / "runs")
    return RunDir(tmp_path / "runs" / whole.path.relative_to(root))


def files(run: RunDir) -> dict[str, bytes]:
    found = [path for name in ("evals", "images") for path in (run.path / name).rglob("*") if path.is_file()]
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in found}


def state(run: RunDir, plan: EvaluationPlan) -> str:
    actions = tuple(evaluations(run, plan).values())
    return Job(run, config_of(run), "pixel_rf", 0, 0, key="pixel_rf", evaluations=actions).state


LOST: dict[str, Damage] = {
    "an image": lambda run: sorted(run.path.glob("images/prompts-64/**/*.png"))[0].unlink(),
    "a folder of images": lambda run: shutil.rmtree(run.path / "images" / "items-64"),
    "a score": lambda run: (run.evals / "geneval.json").unlink(),
    "items": lambda run: (run.evals / "geneval.items.jsonl").unlink(),
    "all scores": lambda run: shutil.rmtree(run.evals),
}


@pytest.mark.parametrize("what", LOST)
def test_what_is_lost_is_made_again(run: RunDir, plan: EvaluationPlan, what: str) -> None:
    before = files(run)
    assert state(run, plan) == "done"
    LOST[what](run)
    assert state(run, plan) == "resumable"
    do_all(run, evaluations(run, plan), 1)
    assert state(run, plan) == "done"
    assert files(run) == before


def test_a_score_that_holds_something_else_is_made_again_once_it_is_deleted(run: RunDir, plan: EvaluationPlan) -> None:
    before, path = files(run), run.evals / "geneval.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"geneval\.json: is not what was written .*; delete it to have it made again$"):
        do_all(run, evaluations(run, plan), 1)
    path.unlink()
    do_all(run, evaluations(run, plan), 1)
    assert files(run) == before


def test_a_share_makes_what_it_lost_and_the_last_puts_the_parts_together(run: RunDir, plan: EvaluationPlan) -> None:
    before = files(run)
    mine = {name: one for name, one in evaluations(run, plan).items() if name in ("sample-items-64", "geneval2-items-64")}
    for name in mine:
        shutil.rmtree(ActionDir.of(run, name).path)
    do_all(run, mine, 2)
    sorted(run.path.glob("images/items-64/**/*.png"))[-1].unlink()
    assert state(run, plan) == "resumable"
    assert [do(run, mine["sample-items-64"], (index, 2)) for index in (0, 1)] == [False, True]
    assert state(run, plan) == "done"
    assert files(run) == before
