"""The VAE's training: exact terms and resumption, statistics of what users see, refusals, and the gate itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from rf_repro.config.model_schema import VAEConfig
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.maths.noise import new_seeds, normals
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.model.vae import LatentSpace
from rf_repro.train.checkpoint import list_checkpoints
from rf_repro.train.vae_trainer import CHUNK, VAETrainer, load_vae
from rf_repro.worlds.scenes.gates import check_reconstruction
from tests.model.small import largest_difference, small_config
from tests.train.test_trainer import Killed, assert_same_run, run_dir

CPU = torch.device("cpu")
Precision = Literal["bf16", "fp32"]
NUM_IMAGES = CHUNK + 44  # statistics go over more than one chunk, and a broken one


def vae_config(precision: Precision = "fp32", num_train: int = NUM_IMAGES, **changes: Any) -> ExperimentConfig:
    """The shared run of a small VAE, 8 steps of 4 images; `changes` are fields of the VAE."""
    fields: dict[str, Any] = {"downsample": 4, "latent_channels": 3, "width": 6, "kl_weight": 1e-3, "steps": 8,
                              "learning_rate": 3e-3, "batch_size": 4, **changes}  # fmt: skip
    base = small_config(model__pixel__space="vae", data__scenes__num_train=num_train)
    runs = {run.name: run.config for run in shared_runs(replace(base, model=replace(base.model, vae=VAEConfig(**fields))))}
    config = runs["stage-vae"]
    return replace(config, optim=replace(config.optim, precision=precision))


def scenes(config: ExperimentConfig) -> Tensor:
    return torch.from_numpy(ScenesWorld(config.data.scenes).train(np.arange(config.data.scenes.num_train)).images)


def train_vae(config: ExperimentConfig, run: RunDir, seed: int, device: torch.device, images: torch.Tensor) -> VAETrainer:
    """To its end, from where it stopped."""
    trainer = VAETrainer(config, seed, device, images)
    trainer.run(run)
    return trainer


def make(config: ExperimentConfig, seed: int = 0) -> VAETrainer:
    return VAETrainer(config, seed, CPU, scenes(config))


class KilledAtStep6(VAETrainer):
    def train_step(self) -> dict[str, float]:
        if self.step == 5:
            raise Killed
        return super().train_step()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_equals_never_having_stopped_bitwise(precision: Precision, tmp_path: Path) -> None:
    config, whole, parts = vae_config(precision), run_dir(tmp_path / "whole"), run_dir(tmp_path / "parts")
    train_vae(config, whole, 0, CPU, scenes(config))
    with pytest.raises(Killed):
        KilledAtStep6(config, 0, CPU, scenes(config)).run(parts)
    assert list_checkpoints(parts.checkpoints)[-1].name == "step-000004"
    second = train_vae(config, parts, 0, CPU, scenes(config))
    assert (second.step, second.num_tokens) == (8, 8 * 4 * 36)
    assert_same_run(whole, parts)
    assert [row["step"] for row in parts.metrics()] == [2, 4, 6, 8]
    other = run_dir(tmp_path / "other")
    train_vae(config, other, 1, CPU, scenes(config))
    with pytest.raises(AssertionError):
        assert_same_run(whole, other)


def test_a_finished_training_is_left_as_it_is(tmp_path: Path) -> None:
    config, run = vae_config(), run_dir(tmp_path)
    first = train_vae(config, run, 0, CPU, scenes(config))
    before = {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*")}
    again = train_vae(config, run, 0, CPU, scenes(config))
    assert {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*")} == before
    assert all(torch.equal(again.statistics[name], value) for name, value in first.statistics.items())


def test_the_terms_of_a_step_are_their_formulas() -> None:
    trainer = make(vae_config(kl_weight=0.25))
    generator = torch.Generator().manual_seed(derive_seed("vae", 0, 1))
    images = to_images(trainer.images[torch.randint(NUM_IMAGES, (4,), generator=generator)])
    with torch.no_grad():
        mean, log_variance = trainer.model.posterior(images)
        posterior = Normal(mean, log_variance.exp().sqrt())
        drawn = mean + normals(new_seeds(4, generator), *mean.shape[1:]) * posterior.scale
        reconstruction = ((trainer.model.reconstruct(drawn) - images) ** 2).sum() / (4 * 3 * 24 * 24)
        kl = torch_kl(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum() / (4 * 3 * 6 * 6)
    log = trainer.train_step()
    assert log["loss/reconstruction"] == pytest.approx(float(reconstruction), rel=1e-5)
    assert log["loss/kl"] == pytest.approx(float(kl), rel=1e-5)
    assert log["loss"] == pytest.approx(float(reconstruction + 0.25 * kl), rel=1e-5)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    config = vae_config(learning_rate=1e-3)
    trainer = make(replace(config, stages=(replace(config.stages[0], warmup_steps=2),)))
    rates = []
    for _ in range(8):
        trainer.train_step()
        rates.append(trainer.optimizer.learning_rate / 1e-3)
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_users_see_latents_of_zero_mean_and_unit_deviation_of_the_averaged_weights(precision: Precision, tmp_path: Path) -> None:
    config, run = vae_config(precision), run_dir(tmp_path)
    trainer = train_vae(config, run, 0, CPU, scenes(config))
    vae = load_vae(list_checkpoints(run.checkpoints)[-1], config.model.vae)
    images = to_images(scenes(config))
    latents = vae.encode(images).double().transpose(0, 1).flatten(1)
    assert largest_difference(latents.mean(1), torch.zeros(3)) < 1e-4
    assert largest_difference(latents.std(1, correction=0), torch.ones(3)) < 1e-4
    raw = vae.posterior(images)[0].double().transpose(0, 1).flatten(1)
    assert largest_difference(raw.mean(1), vae.latent_mean) < 1e-5
    assert largest_difference(raw.std(1, correction=0), vae.latent_std) < 1e-5
    for name, parameter in vae.named_parameters():
        assert torch.equal(parameter, trainer.average.values[name]), name
        assert not parameter.requires_grad
    assert not any(torch.equal(value, trainer.average.values[name]) for name, value in trainer.optimizer.masters.items())


def test_a_collapsed_channel_is_an_error_not_a_division_by_zero() -> None:
    trainer = make(vae_config())
    trainer.train_step()
    with torch.no_grad():
        trainer.average.values["encoder.6.weight"][1].zero_()  # of the last convolution: the mean of channel 1
    with pytest.raises(UserError, match=r"model\.vae\.kl_weight=.*latent channel 1 collapsed"):
        trainer.measure_statistics()


def test_only_a_finished_vae_of_the_same_shape_is_loaded(tmp_path: Path) -> None:
    config, run = vae_config(), run_dir(tmp_path)
    with pytest.raises(Killed):
        KilledAtStep6(config, 0, CPU, scenes(config)).run(run)
    with pytest.raises(UserError, match="trained to step 4 of 8"):
        load_vae(list_checkpoints(run.checkpoints)[-1], config.model.vae)
    train_vae(config, run, 0, CPU, scenes(config))
    last = list_checkpoints(run.checkpoints)[-1]
    with pytest.raises(UserError, match="holds another VAE"):
        load_vae(last, replace(config.model.vae, width=7))
    with pytest.raises(UserError, match="holds another model's weights"):
        train_vae(vae_config(downsample=2), run, 0, CPU, scenes(config))


@pytest.mark.parametrize("weight", ["decoder.0.bias", "encoder.6.bias"])
def test_a_term_that_is_not_finite_stops_before_the_step(weight: str) -> None:
    trainer = make(vae_config())
    trainer.train_step()
    with torch.no_grad():
        trainer.model.get_parameter(weight)[0] = float("nan")
    masters = {name: tensor.detach().clone() for name, tensor in trainer.optimizer.masters.items()}
    averages = {name: tensor.clone() for name, tensor in trainer.average.values.items()}
    with pytest.raises(TrainingDiverged, match=r"step 2: loss/\w+ is nan"):
        trainer.train_step()
    assert trainer.step == 1
    assert all(
        torch.equal(tensor.nan_to_num(9), masters[name].nan_to_num(9)) for name, tensor in trainer.optimizer.masters.items()
    )
    assert all(torch.equal(tensor, averages[name]) for name, tensor in trainer.average.values.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_stops_before_the_step(precision: Precision) -> None:
    trainer = make(vae_config(precision))
    trainer.train_step()
    masters = {name: tensor.detach().clone() for name, tensor in trainer.optimizer.masters.items()}
    trainer.model.get_parameter("decoder.0.weight").register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingDiverged, match="step 2: the gradient norm is"):
        trainer.train_step()
    assert trainer.step == 1
    assert all(torch.equal(tensor, masters[name]) for name, tensor in trainer.optimizer.masters.items())


class Blank:
    """A space in which every image is the same dark one."""

    def encode(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, None]

    def decode(self, patches: Tensor) -> Tensor:
        return torch.full((len(patches), 3, 24, 24), -1.0)


def nothing(phase: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@pytest.mark.parametrize(("space", "least", "most"), [(PixelSpace(4), 1.0, 1.0), (Blank(), 0.0, 0.0)])
def test_the_gate_scores_what_comes_back_from_the_space(space: ImageSpace, least: float, most: float, tmp_path: Path) -> None:
    config, run = vae_config(), run_dir(tmp_path)
    config = replace(config, evals=replace(config.evals, images_per_task=4))
    check_reconstruction(config, space, run, nothing, CPU)
    result = run.eval_result("geneval-vae-reconstruction")
    assert result is not None
    assert result.n == result.expected_n >= 24
    assert least <= result.metrics["overall"] <= most  # type: ignore[operator]
    check_reconstruction(config, Blank(), run, nothing, CPU)  # it is done, and stays as it is
    assert run.eval_result("geneval-vae-reconstruction") == result


@pytest.mark.slow
def test_the_gate_is_reached(tmp_path: Path) -> None:
    """A third of the steps of `tiny`, at half the batch: reconstructions already score 0.97."""
    config = vae_config("bf16", num_train=4000, steps=500, width=32, batch_size=32, latent_channels=8)
    run = RunDir.create(tmp_path, config.to_dict(), config.result_hash(), config.scale, "stage-vae", 0)
    train_vae(config, run, 0, CPU, scenes(config))
    config = replace(config, evals=replace(config.evals, images_per_task=25))
    vae = load_vae(list_checkpoints(run.checkpoints)[-1], config.model.vae)
    check_reconstruction(config, LatentSpace(vae, 4), run, nothing, CPU)
    result = run.eval_result("geneval-vae-reconstruction")
    assert result is not None
    assert result.metrics["overall"] is not None
    assert result.metrics["overall"] >= 0.97
