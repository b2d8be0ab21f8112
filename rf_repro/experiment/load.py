"""What runs leave for others: the last checkpoint, its averaged weights as a model, the VAE behind its latents."""

from collections.abc import Mapping
from pathlib import Path

import torch

from rf_repro.compute.arithmetic import DTYPES, arithmetic
from rf_repro.compute.sharding import fill, materialise, on_meta
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace
from rf_repro.model.spaces import space_of
from rf_repro.train.checkpoint import list_checkpoints, stream_weights
from rf_repro.train.vae_trainer import load_vae


def last_checkpoint(run: RunDir) -> Path:
    """Raises UserError when the run has none."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        raise UserError(f"{run.checkpoints}: no checkpoint; train the run first, or delete its directory to train it again")
    return checkpoints[-1]


def load_model(config: ExperimentConfig, checkpoint: Path, vocab_size: int, device: torch.device) -> RFModel:
    """The averaged weights of a checkpoint, in the device's arithmetic; never held twice.

    Raises:
        UserError: the checkpoint is damaged or of another model.
    """
    with on_meta():
        model = RFModel(config, vocab_size)
    model.to(DTYPES[arithmetic(config.optim.precision, device)])
    materialise(model, device)
    lacking = set(model.state_dict()) - fill(model, stream_weights(checkpoint, ema=True))
    if lacking:
        raise UserError(f"{checkpoint}: lacks {min(lacking)} and {len(lacking) - 1} others; it belongs to another model")
    return model.eval().requires_grad_(False)


def image_space(config: ExperimentConfig, done: Mapping[str, RunDir], device: torch.device) -> ImageSpace:
    """What the generation tokens of a config hold; `done`: by kind of prerequisite."""
    return space_of(config.model).build(
        config.model, device, lambda: load_vae(last_checkpoint(done["vae"]), config.model.vae).to(device)
    )
