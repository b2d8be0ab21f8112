"""The training loop: resuming is exact, divergence stops before anything is stepped or saved, averages and targets follow."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.representation.alignment import resize_grid
from rf_repro.representation.continuous import FeatureStatistics
from rf_repro.representation.vq import OnlineVQ
from rf_repro.train.checkpoint import list_checkpoints, load_checkpoint
from rf_repro.train.trainer import Trainer
from tests.model.small import largest_difference, small_config
from tests.train.making import trainer_of

PIXEL_RF = small_config(evals__every=5)
CASES = {
    "pixel_rf, bf16, muon": small_config(
        evals__every=5, optim__precision="bf16", stages__joint__optimizer="muon", representation__center=True
    ),
    "pixel_rf, fp32, adamw": PIXEL_RF,
    "pixel, fp32, muon": small_config(evals__every=5, representation__kind="none", stages__joint__optimizer="muon"),
    "continuous, bf16": small_config(
        evals__every=5, optim__precision="bf16", representation__kind="continuous", stages__joint__mixture__text=2
    ),
    "repa, fp32": small_config(evals__every=5, representation__kind="repa", representation__center=True),
    "masked images, bf16": small_config(
        evals__every=5, optim__precision="bf16", representation__kind="none", model__pixel__space="none",
        stages__joint__mixture__generation=0, stages__joint__mixture__masked_image=3,
    ),
    "connector only": small_config(
        evals__every=5, representation__kind="none", stages__joint__trains="connector", stages__joint__mixture__generation=0
    ),
}  # fmt: skip


def make(config: ExperimentConfig, seed: int = 0) -> Trainer:
    return trainer_of(config, seed=seed)


def run_dir(path: Path) -> RunDir:
    path.mkdir(parents=True, exist_ok=True)
    return RunDir(path)


def tensors_of(value: object, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor in nested dictionaries and lists, by its path."""
    if isinstance(value, Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {name: tensor for key, item in items for name, tensor in tensors_of(item, f"{prefix}/{key}").items()}


def assert_same_run(first: RunDir, second: RunDir, metrics: bool = True) -> None:
    """Last checkpoints bit by bit (weights, averages, codebook, optimiser), and the logged rows but for their CPU time. A run
    that was stopped has more rows (`metrics=False`)."""
    one, other = (load_checkpoint(list_checkpoints(run.checkpoints)[-1]) for run in (first, second))
    assert one.step == other.step
    assert one.extra["num_tokens"] == other.extra["num_tokens"]
    for part in ("weights", "ema", "optimizer"):
        own, expected = tensors_of(getattr(one, part)), tensors_of(getattr(other, part))
        assert own.keys() == expected.keys()
        assert own
        for name, tensor in own.items():
            assert torch.equal(tensor, expected[name]), f"{part}{name}"
    rows = [[{k: v for k, v in row.items() if k != "compute_seconds"} for row in run.metrics()] for run in (first, second)]
    assert rows[0] == rows[1] or not metrics


class Killed(BaseException):
    """Stands for a signal: nothing in the trainer may catch it."""


def stop_at(step: int):  # type: ignore[no-untyped-def]
    def at_step(now: int) -> None:
        if now == step:
            raise Killed

    return at_step


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_resuming_equals_never_having_stopped_bitwise(config: ExperimentConfig, tmp_path: Path) -> None:
    whole, parts = run_dir(tmp_path / "whole"), run_dir(tmp_path / "parts")
    make(config).run(whole)
    with pytest.raises(Killed):
        make(config).run(parts, at_step=stop_at(5))
    assert list_checkpoints(parts.checkpoints)[-1].name == "step-000004"
    with open(parts.metrics_path, "a") as file:  # the row of a checkpoint that a kill prevented, and half of another
        file.write(json.dumps({"step": 6, "loss": 1e9}) + '\n{"step": 8, "lo')
    second = make(config)
    second.run(parts)
    assert second.step == 8
    assert_same_run(whole, parts)
    assert [row["step"] for row in parts.metrics()] == [2, 4, 6, 8]
    other_seed = run_dir(tmp_path / "other")
    make(config, seed=1).run(other_seed)
    with pytest.raises(AssertionError):
        assert_same_run(whole, other_seed)


def test_a_finished_stage_is_not_trained_further(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    make(PIXEL_RF).run(run)
    before = {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*")}
    calls: list[int] = []
    again = make(PIXEL_RF)
    again.run(run, at_step=calls.append)
    assert again.step == 8
    assert calls == [8]  # it may have been stopped in the midst of it
    assert {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*")} == before


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    make(small_config(representation__kind="none")).run(run)
    with pytest.raises(UserError, match="holds another model's weights"):
        make(PIXEL_RF).run(run)


def test_rows_are_means_over_their_steps_and_evaluations_come_at_their_steps(tmp_path: Path) -> None:
    run, calls = run_dir(tmp_path), []
    make(PIXEL_RF).run(run, at_step=calls.append)
    assert calls == [5, 8]
    other = make(PIXEL_RF)
    other.begin()
    logs = [other.train_step() for _ in range(8)]
    rows = run.metrics()
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for index, row in enumerate(rows):
        for name in ("loss", "loss/flow", "loss/representation", "loss/text", "grad_norm"):
            assert row[name] == pytest.approx((logs[2 * index][name] + logs[2 * index + 1][name]) / 2, rel=1e-6)
        # 4 x (12 words + 17 + 36) and 3 x (16 features + 16 words) tokens a step
        assert row["tokens"] == 2 * (index + 1) * (4 * 65 + 3 * 32)
        assert 1 <= row["codebook/perplexity"] <= 16
    assert rows[-1]["learning_rate"] == pytest.approx(2e-3)
    assert logs[0]["loss"] == pytest.approx(sum(logs[0][f"loss/{name}"] for name in ("flow", "representation", "text")), rel=1e-6)


POISON = {
    "flow": "pixels.head.bias",
    "representation": "representation.head.bias",
    "text": "text_head.weight",
}


@pytest.mark.parametrize("term", POISON)
def test_a_term_that_is_not_finite_stops_before_the_step(term: str, tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with pytest.raises(Killed):
        make(PIXEL_RF).run(run, at_step=stop_at(5))
    before = {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()}

    class Poisoned(Trainer):
        """Trains from the checkpoint at step 4, with one weight gone bad."""

        def train_step(self) -> dict[str, float]:
            with torch.no_grad():
                self.model.get_parameter(POISON[term]).flatten()[0] = float("nan")
            self.at_poison = {name: tensor.detach().clone() for name, tensor in self.optimizer.masters.items()}
            return super().train_step()

    trainer = trainer_of(PIXEL_RF, kind=Poisoned)
    with pytest.raises(TrainingDiverged, match=f"step 5: loss/{term} is nan"):
        trainer.run(run)
    assert {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()} == before
    for name, tensor in trainer.optimizer.masters.items():
        assert torch.equal(tensor.nan_to_num(9), trainer.at_poison[name].nan_to_num(9)), name
    assert all(math.isfinite(row["loss"]) for row in run.metrics())
    whole = run_dir(tmp_path / "whole")
    make(PIXEL_RF).run(whole)
    make(PIXEL_RF).run(run)  # without the poison, the run goes on as if nothing had been
    assert_same_run(whole, run)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_stops_before_the_step(precision: str) -> None:
    config = PIXEL_RF if precision == "fp32" else small_config(optim__precision="bf16")
    trainer = make(config)
    trainer.begin()
    trainer.train_step()
    before = {name: tensor.detach().clone() for name, tensor in trainer.optimizer.masters.items()}
    averages = {name: tensor.clone() for name, tensor in trainer.average.values.items()}
    trainer.model.connector[0].weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingDiverged, match="step 2: the gradient norm is"):
        trainer.train_step()
    assert trainer.step == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.optimizer.masters.items())
    assert all(torch.equal(tensor, averages[name]) for name, tensor in trainer.average.values.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_averages_of_weights_and_target_encoder_follow_the_masters(precision: str) -> None:
    decay, target_decay = 0.9, 0.6
    config = small_config(model__encoder__target_ema_decay=target_decay)
    trainer = make(config if precision == "fp32" else apply_overrides(config, {"optim.precision": precision}))
    trainer.begin()
    names = [name for name, _ in trainer.model.named_parameters()]
    ema = {name: trainer.optimizer.masters[name].detach().double() for name in names}
    target = {name: value for name, value in ema.items() if name.startswith("encoder.")}
    for step in range(1, 5):
        trainer.train_step()
        kept = min(decay, (1 + step) / (10 + step))
        masters = {name: trainer.optimizer.masters[name].detach().double() for name in names}
        ema = {name: kept * ema[name] + (1 - kept) * masters[name] for name in names}
        target = {name: target_decay * target[name] + (1 - target_decay) * masters[name] for name in target}
    assert trainer.targets is not None
    targets = trainer.targets.encoder.state_dict()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    inference = trainer.inference_model().state_dict()
    for name in names:
        assert largest_difference(trainer.average.values[name], ema[name]) < 1e-6, name
        assert torch.equal(inference[name], trainer.average.values[name].to(dtype)), name
    for name, expected in target.items():
        short = name.removeprefix("encoder.")
        assert largest_difference(trainer.targets.average.values[short], expected) < 1e-6
        assert torch.equal(targets[short], trainer.targets.average.values[short].to(dtype))
    moved = max(largest_difference(trainer.optimizer.masters[name].detach(), target[name]) for name in target)
    assert moved > 1e-4  # the average is not the weights themselves


def test_targets_are_balanced_codes_of_the_average_encoder_over_the_whole_step() -> None:
    trainer = make(PIXEL_RF)
    trainer.begin()
    assert trainer.targets is not None
    vq = trainer.targets.values.vq
    assert isinstance(vq, OnlineVQ)
    assert int(vq.num_updates) == 2  # warm-up batches
    with torch.no_grad():  # the model's own encoder has no say
        for parameter in trainer.model.encoder.parameters():
            parameter.zero_()
    (pack,) = trainer.data.packs(1)
    batch = pack.batch
    (features,) = trainer.targets.features([batch.generation[0].images])
    assert torch.equal(features, trainer.targets.encoder.pooled(batch.generation[0].images))  # type: ignore[operator]
    expected = vq.assign(features.flatten(0, 1)).view(4, 16)
    before = vq.prototypes.clone()
    ((codes,),) = trainer.targets.assign([batch])
    assert torch.equal(codes, expected)
    assert not torch.equal(vq.prototypes, before)
    assert int(vq.num_updates) == 3


def test_only_the_connector_moves_where_the_stage_says_so() -> None:
    config = CASES["connector only"]
    trainer = make(config)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    for _ in range(3):
        trainer.train_step()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if name.startswith("connector.")}


@pytest.mark.parametrize("center", [False, True])
def test_repa_aligns_with_the_average_encoders_features_on_the_pixel_grid(center: bool) -> None:
    changes = {"representation__center": True} if center else {}
    trainer = make(small_config(representation__kind="repa", **changes))
    trainer.begin()
    (pack,) = trainer.data.packs(1)
    batch = pack.batch
    assert trainer.targets is not None
    with torch.no_grad():
        expected = resize_grid(trainer.targets.encoder(batch.generation[0].images), (8, 8), (6, 6))
    ((targets,),) = trainer.targets.assign([batch])
    assert targets.shape == (4, 36, 24)
    assert largest_difference(targets, expected - trainer.targets.values.statistics.mean if center else expected) < 1e-6


def test_continuous_targets_are_standardised_pooled_features() -> None:
    trainer = make(small_config(representation__kind="continuous"))
    trainer.begin()
    assert trainer.targets is not None
    (pack,) = trainer.data.packs(1)
    batch = pack.batch
    (features,) = trainer.targets.features([batch.generation[0].images])
    ((targets,),) = trainer.targets.assign([batch])
    assert targets.shape == (4, 16, 24)
    statistics = trainer.targets.values.statistics
    assert isinstance(statistics, FeatureStatistics)
    mean, variance = statistics.mean, statistics.variance
    assert largest_difference(targets * (variance + 1e-6).sqrt() + mean, features) < 1e-5
    assert targets.std() == pytest.approx(1, abs=0.3)
