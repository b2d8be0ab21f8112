"""Asked to stop, a training ends with a checkpoint of the very step it is at, on every rank, and goes on from there as if it
had never been asked."""

from itertools import count, pairwise
from pathlib import Path

import pytest
import torch

from rf_repro.compute.ranks import Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import Stopped, UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.train.checkpoint import list_checkpoints, load_checkpoint, step_of
from rf_repro.train.trainer import Trainer
from tests.model.small import small_config
from tests.train.making import trainer_of
from tests.train.processes import run_ranks
from tests.train.test_data_parallel import make
from tests.train.test_trainer import CASES, PIXEL_RF, run_dir, tensors_of


def last_step(run: RunDir) -> int:
    return step_of(list_checkpoints(run.checkpoints)[-1])


def assert_same_end(first: RunDir, second: RunDir) -> None:
    """Weights, averages, codebook, optimiser and tokens of the last checkpoint, bit by bit."""
    one, other = (load_checkpoint(list_checkpoints(run.checkpoints)[-1]) for run in (first, second))
    assert one.step == other.step
    assert one.extra["num_tokens"] == other.extra["num_tokens"]
    for part in ("weights", "ema", "optimizer"):
        own, expected = tensors_of(getattr(one, part)), tensors_of(getattr(other, part))
        assert own.keys() == expected.keys()
        for name, tensor in own.items():
            assert torch.equal(tensor, expected[name]), f"{part}{name}"


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_stopped_after_every_step_it_ends_where_it_would_have(config: ExperimentConfig, tmp_path: Path) -> None:
    whole, parts = run_dir(tmp_path / "whole"), run_dir(tmp_path / "parts")
    make(config).run(whole)
    for step in range(1, 9):
        with pytest.raises(Stopped, match=f"step {step} of 8: asked to stop; its checkpoint is saved"):
            make(config).run(parts, stop=lambda: True)
        assert last_step(parts) == step
    make(config).run(parts, stop=lambda: pytest.fail("asked of a finished training"))
    assert_same_end(whole, parts)
    regular, rows = whole.metrics(), {row["step"]: row for row in parts.metrics()}
    assert list(rows) == list(range(1, 9))
    assert [row["step"] for row in regular] == [2, 4, 6, 8]
    for row in regular:  # a row has the steps since the one before
        assert rows[row["step"]]["tokens"] == row["tokens"]
        assert (rows[row["step"] - 1]["loss"] + rows[row["step"]]["loss"]) / 2 == pytest.approx(row["loss"], rel=1e-6)


class Counting(Trainer):
    """Remembers the steps it saved."""

    saved: list[int]

    def save(self, run: RunDir) -> None:
        self.saved = [*getattr(self, "saved", []), self.step]
        super().save(run)


def counting(config: ExperimentConfig) -> Counting:
    return trainer_of(config, kind=Counting)


class Evaluation:
    """Records each step once, and is asked to stop in the midst of one, before its record."""

    def __init__(self, stop_at: int) -> None:
        self.stop_at, self.calls, self.records = stop_at, list[int](), list[int]()

    def __call__(self, step: int) -> None:
        self.calls.append(step)
        if step in self.records:
            return
        if step == self.stop_at:
            self.stop_at = 0
            raise Stopped("image 3 of 8")
        self.records.append(step)


@pytest.mark.parametrize(
    ("every", "stop_at"), [(5, 5), (4, 4), (5, 8)], ids=["between checkpoints", "at a checkpoint", "at the end"]
)
def test_stopped_in_an_evaluation_nothing_is_lost_and_it_is_recorded_once(every: int, stop_at: int, tmp_path: Path) -> None:
    config = small_config(evals__every=every)
    whole, parts = run_dir(tmp_path / "whole"), run_dir(tmp_path / "parts")
    make(config).run(whole)
    evaluation, trainer = Evaluation(stop_at), counting(config)
    with pytest.raises(Stopped, match=f"step {stop_at} of 8"):
        trainer.run(parts, evaluation)
    assert trainer.saved == sorted({*range(2, stop_at + 1, 2), stop_at})  # and none of them twice
    assert [row["step"] for row in parts.metrics()] == trainer.saved
    again = counting(config)
    again.run(parts, evaluation)
    due = sorted({*range(every, 9, every), 8})
    assert evaluation.records == due
    assert evaluation.calls == sorted([*due, stop_at])
    assert_same_end(whole, parts)


def test_a_stop_comes_before_an_evaluation_that_is_due_and_the_evaluation_after_it(tmp_path: Path) -> None:
    run, evaluation, steps = run_dir(tmp_path), Evaluation(0), 0

    def at_the_fifth_step() -> bool:
        nonlocal steps
        steps += 1
        return steps == 5

    trainer = counting(PIXEL_RF)
    with pytest.raises(Stopped, match="step 5 of 8"):
        trainer.run(run, evaluation, at_the_fifth_step)
    assert not evaluation.calls
    assert trainer.saved == [2, 4, 5]
    make(PIXEL_RF).run(run, evaluation)
    assert evaluation.calls == evaluation.records == [5, 8]


def test_stopped_again_in_the_evaluation_with_which_it_goes_on(tmp_path: Path) -> None:
    run, evaluation = run_dir(tmp_path), Evaluation(5)
    with pytest.raises(Stopped):
        make(PIXEL_RF).run(run, evaluation)
    before = {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*")}
    evaluation.stop_at = 5
    with pytest.raises(Stopped, match="step 5 of 8"):
        make(PIXEL_RF).run(run, evaluation)
    assert {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*")} == before  # it was saved already
    make(PIXEL_RF).run(run, evaluation)
    assert evaluation.calls == [5, 5, 5, 8]


# Several ranks

LONG = small_config(
    stages__joint__steps=20, checkpoint_every=8, evals__every=5, optim__precision="bf16", stages__joint__optimizer="muon"
)


def run_long(ranks: Ranks, run: Path) -> None:
    make(LONG, ranks).run(RunDir(run))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Two ranks that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_ranks(run_long, 2, folder, folder)
    return RunDir(folder)


def stopped_by_one(ranks: Ranks, run: Path, patience: list[int]) -> list[int]:
    """The steps at which it stopped, each time because of the last rank alone, which waits for so many steps."""
    stops = []
    for steps in [*patience, None]:
        left = iter(range(steps - 1) if steps and ranks.rank == ranks.size - 1 else count())
        trainer = make(LONG, ranks)
        try:
            trainer.run(RunDir(run), stop=lambda left=left: next(left, None) is None)
        except Stopped as reason:
            said = str(reason)
        else:
            break
        assert said.startswith(f"step {trainer.step} of 20")
        assert last_step(RunDir(run)) == trainer.step  # on every rank: it is there when they learn of the end
        stops.append(trainer.step)
    return stops


@pytest.mark.dist
def test_a_stop_on_one_rank_stops_all_at_one_step_and_costs_nothing(tmp_path: Path, undisturbed: RunDir) -> None:
    parts = run_dir(tmp_path / "parts")
    stops = [1, 5, 8, 17]  # at the first step, where an evaluation is due, where a checkpoint is, and at neither
    patience = [stop - before for before, stop in pairwise([0, *stops])]
    assert run_ranks(stopped_by_one, 2, tmp_path / "groups", parts.path, patience) == [stops, stops]
    assert_same_end(undisturbed, parts)
    assert [row["step"] for row in parts.metrics()] == sorted({*stops, 8, 16, 20})  # written by one rank alone


def evaluated(ranks: Ranks, run: Path, stop_at: int) -> tuple[list[int], str]:
    evaluation = Evaluation(stop_at)
    try:
        make(LONG, ranks).run(RunDir(run), evaluation)
    except Stopped as stop:
        return evaluation.calls, str(stop)
    return evaluation.calls, "done"


@pytest.mark.dist
def test_a_stop_in_the_first_ranks_evaluation_stops_all(tmp_path: Path, undisturbed: RunDir) -> None:
    run = run_dir(tmp_path / "run")
    stopped = "step 10 of 20: asked to stop; its checkpoint is saved"
    assert run_ranks(evaluated, 2, tmp_path / "groups", run.path, 10) == [([5, 10], stopped), ([], stopped)]
    assert last_step(run) == 10
    assert run_ranks(evaluated, 2, tmp_path / "groups", run.path, 0) == [([10, 15, 20], "done"), ([], "done")]
    assert_same_end(undisturbed, run)


def each_in_its_own_folder(ranks: Ranks, runs: list[Path]) -> str:
    with pytest.raises(UserError) as error:
        make(LONG, ranks).run(RunDir(runs[ranks.rank]))
    return str(error.value)


@pytest.mark.dist
def test_ranks_that_see_different_checkpoints_are_refused(tmp_path: Path) -> None:
    one, other = run_dir(tmp_path / "one"), run_dir(tmp_path / "other")
    with pytest.raises(Stopped):
        make(LONG).run(other, stop=lambda: True)
    for message in run_ranks(each_in_its_own_folder, 2, tmp_path / "groups", [one.path, other.path]):
        assert "the ranks see different last steps (0, 1)" in message
