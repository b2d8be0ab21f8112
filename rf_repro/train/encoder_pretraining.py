"""The encoder's own pretraining at `tiny`: self-supervised or contrastive, in place of DINOv3 or SigLIP2 (Table 3e).

Both kinds share images, batches, optimiser, schedule and average; they differ in the objective, and in the steps that make
their cost equal. The average is the teacher of self-distillation, and what is kept of either.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.core.files import append_jsonl, write_jsonl
from rf_repro.core.hashing import derive_seed
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.data.mixture import SceneMixture
from rf_repro.data.packing import to_images
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.model.initialise import initialise
from rf_repro.representation.contrastive import ContrastiveModel
from rf_repro.representation.probe import PROBE_SCENES, probe_features
from rf_repro.representation.self_distillation import (
    SelfDistillationModel,
    draw_masks,
    draw_views,
    self_distillation_losses,
)
from rf_repro.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, load_weights, save_checkpoint
from rf_repro.train.ema import Average
from rf_repro.train.optim import MasterOptimizer
from rf_repro.train.trainer import DTYPES, LOG_EVERY

AVERAGE_DECAY = 0.99
DECAY_FRACTION = 0.6  # of the learning rate, as in the first stage
PROBE_BATCH = 500  # images


class EncoderPretraining:
    """Trains an encoder by the config's kind, from `seed` alone."""

    def __init__(
        self,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
        mixture: SceneMixture,
        tokenizer: SceneTokenizer,
    ) -> None:
        self.config, self.seed, self.device, self.mixture = config, seed, device, mixture
        self.settings = config.model.encoder.pretraining
        self.stage = replace(config.stages[-1], optimizer="muon", decay_fraction=DECAY_FRACTION)
        self.step, self.num_tokens, self.compute_seconds = 0, 0, 0.0
        encoder, size = config.model.encoder, config.data.scenes.image_size
        self.model: SelfDistillationModel | ContrastiveModel
        if self.settings.kind == "dino":
            self.model = SelfDistillationModel(encoder, size)
        elif self.settings.kind == "siglip":
            self.model = ContrastiveModel(encoder, size, tokenizer.vocab_size, config.data.answer_tokens)
        else:
            raise UserError("model.encoder.pretraining.kind='none': nothing to pretrain; choose dino or siglip")
        initialise(self.model, seed)
        self.model.to(device)
        self.optimizer = MasterOptimizer(dict(self.model.named_parameters()), config.optim, self.stage)
        self.average = Average(self.optimizer.masters, AVERAGE_DECAY, warm_up=True)
        self.model.to(DTYPES[config.optim.precision])
        self.teacher: SelfDistillationModel | None = None
        if isinstance(self.model, SelfDistillationModel):
            self.teacher = copy.deepcopy(self.model).requires_grad_(False)

    def losses(self, step: int) -> dict[str, Tensor]:
        """The terms of a 1-based step, whose sum is the loss."""
        generator = torch.Generator().manual_seed(derive_seed("encoder", self.seed, step))
        rows = torch.randint(len(self.mixture.images), (self.settings.batch_size,), generator=generator)
        images = to_images(self.mixture.images[rows]).to(self.device)
        dtype = DTYPES[self.config.optim.precision]
        if isinstance(self.model, ContrastiveModel):
            captions = self.mixture.dense_answers[rows].to(self.device)
            return {"contrast": self.model.loss(images.to(dtype), captions)}
        assert self.teacher is not None
        own, other = (draw_views(images, generator) for _ in range(2))
        masked = draw_masks(len(images), self.model.encoder.grid**2, generator).to(self.device)
        own, other = (replace(view, images=view.images.to(dtype)) for view in (own, other))
        return self_distillation_losses(self.model, self.teacher, own, other, masked)

    def train_step(self) -> dict[str, float]:
        """One optimiser step. Returns the loss and its terms.

        Raises:
            TrainingDiverged: a term or the gradient is not finite; nothing was stepped.
        """
        step = self.step + 1
        terms = self.losses(step)
        log = {f"loss/{name}": float(term.detach()) for name, term in terms.items()}
        for name, value in log.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"step {step}: {name} is {value}; lower the learning rate")
        loss = torch.stack(list(terms.values())).sum()
        log["loss"] = float(loss.detach())
        loss.backward()
        log["grad_norm"] = self.optimizer.step(step)
        if not math.isfinite(log["grad_norm"]):
            raise TrainingDiverged(f"step {step}: the gradient norm is {log['grad_norm']}; lower the learning rate")
        self.average.update(self.optimizer.masters, step)
        self._copy_to_teacher()
        self.step = step
        self.num_tokens += self._tokens_a_step()
        return log

    def run(self, run: RunDir, progress: Callable[[str, int, int], None] = lambda phase, done, total: None) -> None:
        """Trains to the end from the run's last checkpoint, or from the start, and probes what was learned.

        Args:
            progress: called as (phase, done, total) at every row of metrics.
        """
        self.resume(run)
        rows: list[dict[str, float]] = []
        while self.step < self.stage.steps:
            start = self._clock()
            rows.append(self.train_step())
            self.compute_seconds += self._clock() - start
            is_checkpoint = self.step % self.config.checkpoint_every == 0 or self.step == self.stage.steps
            if self.step % LOG_EVERY == 0 or is_checkpoint:
                row: dict[str, float] = {"step": self.step}
                row |= {name: sum(item[name] for item in rows) / len(rows) for name in rows[0]}
                row |= {"learning_rate": self.optimizer.learning_rate, "tokens": self.num_tokens}
                append_jsonl(run.metrics_path, {**row, "compute_seconds": round(self.compute_seconds, 3)})
                rows = []
                progress("pretrain", self.step, self.stage.steps)
            if is_checkpoint:
                self.save(run)
        if run.eval_result("encoder-probe") is None:
            run.write_eval("encoder-probe", self.probe())

    def probe(self) -> EvalResult:
        """Whether shape and colour can be read linearly from the averaged encoder's pooled features."""
        encoder = copy.deepcopy(self.model.encoder).requires_grad_(False)
        prefix = "encoder."
        encoder.load_state_dict({n.removeprefix(prefix): t for n, t in self.average.values.items() if n.startswith(prefix)})
        scenes_config = self.config.data.scenes
        scenes = ScenesWorld(scenes_config).train(np.arange(min(PROBE_SCENES, scenes_config.num_train)))
        images = to_images(torch.from_numpy(scenes.images)).to(self.device, DTYPES[self.config.optim.precision])
        with torch.no_grad():
            features = torch.cat([encoder.pooled(part).float().cpu() for part in images.split(PROBE_BATCH)])
        metrics, n = probe_features(features, scenes.shape, scenes.color, scenes.center, scenes_config.image_size)
        protocol = f"linear probe of the mean of 4 cells' features, {len(images)} training scenes, a fifth held out"
        return EvalResult("encoder-probe", protocol, dict(metrics), n, n, step=self.step, weights="ema")

    def _copy_to_teacher(self) -> None:
        if self.teacher is not None:
            self.teacher.load_state_dict(self.average.values)

    def _tokens_a_step(self) -> int:
        """Tokens that the trained towers read: patches, and words where there are captions."""
        words = self.config.data.answer_tokens if isinstance(self.model, ContrastiveModel) else 0
        return self.settings.batch_size * (self.model.encoder.grid**2 + words)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    # Checkpoints

    def save(self, run: RunDir) -> None:
        """Writes a checkpoint of everything the next step depends on."""
        weights = {name: tensor.detach().cpu() for name, tensor in self.optimizer.masters.items()}
        averages = {name: tensor.cpu() for name, tensor in self.average.values.items()}
        extra = {"num_tokens": self.num_tokens, "compute_seconds": self.compute_seconds}
        save_checkpoint(run.checkpoints, Checkpoint(self.step, weights, averages, self.optimizer.state_dict(), extra))

    @torch.no_grad()
    def resume(self, run: RunDir) -> None:
        """Loads the last checkpoint, if there is one, and drops metrics after it.

        Raises:
            UserError: it is damaged or belongs to another model.
        """
        checkpoints = list_checkpoints(run.checkpoints)
        if not checkpoints:
            write_jsonl(run.metrics_path, [])
            return
        saved = load_checkpoint(checkpoints[-1])
        if set(self.optimizer.masters) != set(saved.weights):
            raise UserError(f"{checkpoints[-1]}: holds another model's weights; delete the run directory to start again")
        for name, tensor in self.optimizer.masters.items():
            tensor.copy_(saved.weights[name])
        for name, tensor in self.average.values.items():
            tensor.copy_(saved.ema[name])
        self.optimizer.load_state_dict(saved.optimizer)
        self.optimizer.copy_to_model()
        self._copy_to_teacher()
        self.step = saved.step
        self.num_tokens, self.compute_seconds = saved.extra["num_tokens"], saved.extra["compute_seconds"]
        write_jsonl(run.metrics_path, [row for row in run.metrics() if row["step"] <= self.step])


def pretrain_encoder(
    config: ExperimentConfig,
    run: RunDir,
    seed: int,
    device: torch.device,
    mixture: SceneMixture,
    tokenizer: SceneTokenizer,
    progress: Callable[[str, int, int], None],
) -> EncoderPretraining:
    """Completes a `stage-encoder` run: its checkpoints, metrics and the record `encoder-probe`.

    Args:
        config: of the shared run, whose one stage is the pretraining.
        progress: called as (phase, done, total).

    Raises:
        TrainingDiverged: a loss or gradient is not finite.
        UserError: a checkpoint is damaged, or the config asks for no pretraining.
    """
    training = EncoderPretraining(config, seed, device, mixture, tokenizer)
    training.run(run, progress)
    return training


def load_encoder(checkpoint: Path) -> dict[str, Tensor]:
    """The pretrained encoder's averaged weights, float32, named as in `VisionTransformer.state_dict()`.

    Raises:
        UserError: the checkpoint is damaged or holds no encoder.
    """
    prefix = "encoder."
    weights = {n.removeprefix(prefix): t for n, t in load_weights(checkpoint, ema=True).items() if n.startswith(prefix)}
    if not weights:
        raise UserError(f"{checkpoint}: holds no encoder; delete the run directory to train it again")
    return weights
