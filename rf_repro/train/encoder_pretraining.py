"""The encoder's own pretraining at `tiny`: self-supervised or contrastive, in place of DINOv3 or SigLIP2 (Table 3e).

Both kinds share images, batches, optimiser, schedule and average; they differ in the objective, and in the steps that make
their cost equal. The average is the teacher of self-distillation, and what is kept of either.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import to_images
from rf_repro.model.contrastive import ContrastiveModel
from rf_repro.model.encoder import VisionTransformer
from rf_repro.model.initialise import initialise
from rf_repro.model.self_distillation import (
    SelfDistillationModel,
    draw_masks,
    draw_views,
    self_distillation_losses,
)
from rf_repro.train.checkpoint import load_weights
from rf_repro.train.ema import Average
from rf_repro.train.loop import StepLosses, TrainingLoop
from rf_repro.train.optim import MasterOptimizer

AVERAGE_DECAY = 0.97  # a teacher that follows soon: the whole training is a few thousand steps
DECAY_FRACTION = 0.6  # of the learning rate, as in the first stage


class EncoderPretraining(TrainingLoop):
    """Trains an encoder by the config's kind, from `seed` alone."""

    def __init__(
        self,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
        images: Tensor,
        captions: Tensor,
        vocab_size: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """
        Args:
            images: uint8 [N, S, S, 3], on the CPU.
            captions: what each shows, int64 [N, T] of a tokenizer with so many ids.
        """
        stage = replace(config.stages[-1], optimizer="muon", decay_fraction=DECAY_FRACTION)
        super().__init__(config, stage, seed, device, ranks=ranks)
        self.images, self.captions, self.settings = images, captions, config.model.encoder.pretraining
        encoder, size = config.model.encoder, config.max_image_size
        self.model: SelfDistillationModel | ContrastiveModel
        if self.settings.kind == "dino":
            self.model = SelfDistillationModel(encoder, size)
        elif self.settings.kind == "siglip":
            self.model = ContrastiveModel(encoder, size, vocab_size, captions.shape[1])
        else:
            raise UserError("model.encoder.pretraining.kind='none': nothing to pretrain; choose dino or siglip")
        initialise(self.model, seed)
        self.model.to(device)
        self.optimizer = MasterOptimizer(dict(self.model.named_parameters()), config.optim, self.stage, self.dtype)
        self.average = Average(self.optimizer.masters, AVERAGE_DECAY, warm_up=True)
        self.model.to(self.dtype)
        self.teacher: SelfDistillationModel | None = None
        if isinstance(self.model, SelfDistillationModel):
            self.teacher = copy.deepcopy(self.model).requires_grad_(False)

    def losses(self, step: int) -> list[StepLosses]:
        terms = self.terms(step)
        return [StepLosses(terms, torch.stack(list(terms.values())).sum(), self._tokens_a_step())]

    def terms(self, step: int) -> dict[str, Tensor]:
        """The terms of a 1-based step, whose sum is the loss."""
        generator = torch.Generator().manual_seed(derive_seed("encoder", self.seed, step))
        rows = torch.randint(len(self.images), (self.settings.batch_size,), generator=generator)
        images = to_images(self.images[rows]).to(self.device)
        if isinstance(self.model, ContrastiveModel):
            captions = self.captions[rows].to(self.device)
            return {"contrast": self.model.loss(images.to(self.dtype), captions)}
        assert self.teacher is not None
        own, other = (replace(view, images=view.images.to(self.dtype)) for view in draw_views(images, generator))
        masked = draw_masks(len(images), self.model.encoder.grid**2, generator).to(self.device)
        return self_distillation_losses(self.model, self.teacher, own, other, masked)

    def stepped(self, step: int) -> None:
        self._copy_to_teacher()

    def resumed(self) -> None:
        self._copy_to_teacher()

    def averaged_encoder(self) -> VisionTransformer:
        """A copy with the averaged weights."""
        encoder = copy.deepcopy(self.model.encoder).requires_grad_(False)
        prefix = "encoder."
        encoder.load_state_dict({n.removeprefix(prefix): t for n, t in self.average.values.items() if n.startswith(prefix)})
        return encoder

    def _copy_to_teacher(self) -> None:
        if self.teacher is not None:
            self.teacher.load_state_dict(self.average.values)

    def _tokens_a_step(self) -> int:
        """Tokens that the trained towers read: patches, and words where there are captions."""
        words = self.captions.shape[1] if isinstance(self.model, ContrastiveModel) else 0
        return self.settings.batch_size * (self.model.encoder.grid**2 + words)


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
