"""The pretraining loop: resuming is exact, the teacher is the average, divergence stops first, and the encoder is kept."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import Prerequisite, shared_runs
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.experiment.run import run_prerequisite
from rf_repro.model import self_distillation
from rf_repro.model.contrastive import same_captions
from rf_repro.model.encoder import VisionTransformer
from rf_repro.model.initialise import initialise
from rf_repro.model.self_distillation import NUM_PROTOTYPES
from rf_repro.train import encoder_pretraining
from rf_repro.train.checkpoint import list_checkpoints, load_checkpoint
from rf_repro.train.encoder_pretraining import EncoderPretraining, load_encoder
from rf_repro.train.loop import TrainingLoop
from rf_repro.worlds import world_of
from rf_repro.worlds.scenes.probe import probe_features
from tests.model.small import largest_difference, small_config
from tests.train.making import pretraining_of
from tests.train.test_trainer import Killed, assert_same_run, run_dir

CPU = torch.device("cpu")


def config_of(kind: str, precision: str = "bf16", **overrides: object) -> ExperimentConfig:
    """The shared run's config, as a plan asks for it; 6 steps, a checkpoint every second."""
    settings = {f"model.encoder.pretraining.{name}": value for name, value in overrides.items()}
    steps = {f"model.encoder.pretraining.{kind}_steps": 6, "model.encoder.pretraining.batch_size": 8}
    variant = apply_overrides(small_config(), {"model.encoder.pretraining.kind": kind, **steps, **settings})
    (shared, *_) = shared_runs(variant)
    assert shared.name == "stage-encoder"
    return replace(shared.config, optim=replace(shared.config.optim, precision=precision))  # type: ignore[arg-type]


def make(config: ExperimentConfig, seed: int = 0) -> EncoderPretraining:
    return pretraining_of(config, seed)


def dying_before_the_checkpoint_of(training: EncoderPretraining, step: int) -> EncoderPretraining:
    def save(run: RunDir) -> None:
        if training.step == step:
            raise Killed
        TrainingLoop.save(training, run)

    training.save = save  # type: ignore[method-assign]
    return training


KINDS = ["dino", "siglip"]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_resuming_equals_never_having_stopped_bitwise(kind: str, precision: str, tmp_path: Path) -> None:
    config = config_of(kind, precision)
    whole, parts = run_dir(tmp_path / "whole"), run_dir(tmp_path / "parts")
    first = make(config)
    first.run(whole)
    with pytest.raises(Killed):
        dying_before_the_checkpoint_of(make(config), 4).run(parts)  # after the row of step 4
    assert list_checkpoints(parts.checkpoints)[-1].name == "step-000002"
    with open(parts.metrics_path, "a") as file:
        file.write('{"step": 5, "lo')
    second = make(config)
    second.run(parts)
    assert_same_run(whole, parts)
    assert [row["step"] for row in parts.metrics()] == [2, 4, 6]
    for name, tensor in second.averaged_encoder().state_dict().items():
        assert torch.equal(tensor, first.averaged_encoder().state_dict()[name])
    assert second.step == 6
    assert second.num_tokens == first.num_tokens == 6 * 8 * (64 if kind == "dino" else 64 + 16)
    other_seed = run_dir(tmp_path / "other")
    make(config, seed=1).run(other_seed)
    with pytest.raises(AssertionError):
        assert_same_run(whole, other_seed)


def test_a_finished_run_is_neither_trained_nor_probed_again(tmp_path: Path) -> None:
    config = config_of("dino")
    one = Prerequisite("encoder", "stage-encoder", config)
    run = RunDir.create(tmp_path, config.to_dict(), config.result_hash(), config.scale, one.name, 0)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [*run.checkpoints.rglob("*"), *run.evals.rglob("*")]}

    run_prerequisite(one, seed=0, runs=tmp_path)
    before = files()
    assert run.evals / "encoder-probe.json" in before
    run.write_record(replace(run.record(), status="planned"))  # killed before its record said that it is done
    again = run_prerequisite(one, seed=0, runs=tmp_path)
    assert again.record().steps == 6
    assert files() == before


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_teacher_is_the_average_of_the_student(precision: str) -> None:
    training = make(config_of("dino", precision))
    assert training.teacher is not None
    expected = {name: master.detach().double() for name, master in training.optimizer.masters.items()}
    for step in range(1, 5):
        training.train_step()
        kept = min(encoder_pretraining.AVERAGE_DECAY, (1 + step) / (10 + step))
        masters = training.optimizer.masters
        expected = {name: kept * value + (1 - kept) * masters[name].detach().double() for name, value in expected.items()}
    assert not any(parameter.requires_grad for parameter in training.teacher.parameters())
    moved = 0.0
    for name, tensor in training.teacher.state_dict().items():
        assert largest_difference(training.average.values[name], expected[name]) < 1e-6
        assert torch.equal(tensor, training.average.values[name].to(tensor.dtype))
        moved = max(moved, largest_difference(expected[name], training.optimizer.masters[name]))
    assert moved > 1e-5  # the average is not the weights themselves


def test_a_contrastive_step_sees_images_with_their_own_dense_captions() -> None:
    training = make(config_of("siglip", "fp32"))
    world = ScenesWorld(training.config.data.scenes).train(np.arange(64))
    tokenizer = SceneTokenizer(training.config.data.scenes)
    captions = torch.from_numpy(tokenizer.encode(world.dense_captions(), training.config.data.answer_tokens))
    images = to_images(torch.from_numpy(world.images))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = training.model.forward
    training.model.forward = lambda *given: (seen.append(given), forward(*given))[1]  # type: ignore[method-assign]
    training.losses(1)
    ((shown, words),) = seen
    assert len(shown) == 8
    for image, text in zip(shown, words, strict=True):
        (index,) = torch.nonzero((images == image).flatten(1).all(1))[0]
        assert torch.equal(captions[index], text)


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_see_the_same_images(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for name in ("dino", kind):
        training = make(config_of(name))
        monkeypatch.setattr(encoder_pretraining, "to_images", lambda pixels: drawn.append(pixels) or to_images(pixels))
        training.losses(3)
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(("kind", "weight", "term"), [
    ("dino", "image_head.prototypes.weight", "loss/image"),
    ("dino", "patch_head.prototypes.weight", "loss/patch"),
    ("siglip", "bias_offset", "loss/contrast"),
])  # fmt: skip
def test_a_term_that_is_not_finite_stops_before_the_step(kind: str, weight: str, term: str, tmp_path: Path) -> None:
    run, config = run_dir(tmp_path), config_of(kind)
    training = make(config)
    training.resume(run)
    training.train_step()
    masters = {name: tensor.detach().clone() for name, tensor in training.optimizer.masters.items()}
    averages = {name: tensor.clone() for name, tensor in training.average.values.items()}
    with torch.no_grad():
        training.model.get_parameter(weight).view(-1)[0] = float("nan")
    with pytest.raises(TrainingDiverged, match=f"step 2: {term} is nan"):
        training.run(run_dir(tmp_path / "again"))
    assert training.step == 1
    assert all(torch.equal(tensor, masters[name]) for name, tensor in training.optimizer.masters.items())
    assert all(torch.equal(tensor, averages[name]) for name, tensor in training.average.values.items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_the_averaged_encoder_and_it_is_what_was_probed(kind: str, tmp_path: Path) -> None:
    run, config = run_dir(tmp_path), config_of(kind, "fp32")
    training = make(config)
    training.run(run)
    world_of(config).check_encoder(training, run)
    last = list_checkpoints(run.checkpoints)[-1]
    weights = load_encoder(last)
    encoder = VisionTransformer(config.model.encoder, config.data.scenes.image_size)
    encoder.load_state_dict(weights)
    for name, tensor in weights.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, training.average.values[f"encoder.{name}"])
    assert any(not torch.equal(tensor, load_checkpoint(last).weights[f"encoder.{name}"]) for name, tensor in weights.items())

    scenes = ScenesWorld(config.data.scenes).train(np.arange(64))
    with torch.no_grad():
        features = encoder.pooled(to_images(torch.from_numpy(scenes.images)))
    expected, n = probe_features(features, scenes.shape, scenes.color, scenes.center, 24)
    result = run.eval_result("encoder-probe")
    assert result is not None
    assert (result.metrics, result.n, result.expected_n, result.step, result.weights) == (expected, n, n, 6, "ema")


def test_another_kinds_checkpoint_is_refused(tmp_path: Path) -> None:
    run: RunDir = run_dir(tmp_path)
    make(config_of("dino")).run(run)
    with pytest.raises(UserError, match="holds another model's weights"):
        make(config_of("siglip")).run(run)


def test_both_kinds_and_the_first_stage_start_from_the_same_encoder() -> None:
    states = [make(config_of(kind, "fp32")).model.encoder.state_dict() for kind in KINDS]
    holder = torch.nn.Module()
    holder.encoder = VisionTransformer(small_config().model.encoder, 24)
    initialise(holder, 0)
    for name, tensor in holder.encoder.state_dict().items():
        assert torch.equal(states[0][name], tensor)
        assert torch.equal(states[1][name], tensor)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "term"), [("dino", "loss/patch"), ("siglip", "loss/contrast")])
def test_the_loss_falls_well_below_that_of_a_collapsed_encoder(
    kind: str, term: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log K, or what the share of true pairs alone explains."""
    monkeypatch.setattr(self_distillation, "GREY_SHARE", 0.0)  # colours are learned first
    run, config = run_dir(tmp_path), config_of(kind, **{f"{kind}_steps": 150, "batch_size": 16})
    training = make(config)
    training.run(run)
    if kind == "dino":
        nothing_learned = math.log(NUM_PROTOTYPES)
    else:
        true = 1 / 16 + 15 / 16 * float(same_captions(training.captions).float().mean())  # of a batch's pairs
        nothing_learned = -16 * (true * math.log(true) + (1 - true) * math.log(1 - true))
    rows = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert rows[-1][term] < 0.9 * nothing_learned
