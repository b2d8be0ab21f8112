"""Training of the in-suite VAE: reconstruction plus a little KL. It is trained once, and frozen for all VAE variants."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.model_schema import VAEConfig
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import to_images
from rf_repro.maths.noise import new_seeds, normals
from rf_repro.model.vae import KLAutoencoder, kl_divergence
from rf_repro.train.checkpoint import load_checkpoint
from rf_repro.train.ema import Average
from rf_repro.train.loop import StepLosses, TrainingLoop
from rf_repro.train.optim import MasterOptimizer

DECAY_FRACTION = 0.5  # of the steps, over which the rate falls to zero in the end (assumed; over all of them the error is larger)
CHUNK = 256  # images at a time where no gradient is needed
MIN_LATENT_STD = 1e-3  # below it a channel says nothing, and to normalise it is to magnify rounding


class VAETrainer(TrainingLoop):
    """Trains `config.model.vae`, as the one stage of `config`, on images held in memory.

    Args:
        images: uint8 [N, S, S, 3], the training images, on the CPU.
    """

    model: KLAutoencoder

    def __init__(self, config: ExperimentConfig, seed: int, device: torch.device, images: Tensor, ranks: Ranks = ALONE) -> None:
        super().__init__(config, replace(config.stages[-1], decay_fraction=DECAY_FRACTION), seed, device, ranks=ranks)
        self.settings, self.images = config.model.vae, images
        self.model = KLAutoencoder(self.settings)
        self.model.initialise(seed)
        # Statistics are not trained and stay float32: kept beside the model, whose buffers bf16 would round.
        self.statistics = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.to(device)
        self.optimizer = MasterOptimizer(dict(self.model.named_parameters()), config.optim, self.stage, self.dtype)
        self.average = Average(self.optimizer.masters, config.optim.ema_decay, warm_up=True)
        self.model.to(self.dtype)

    def averaged_state(self) -> dict[str, Tensor]:
        """Averaged weights and latent statistics."""
        return {**self.average.values, **self.statistics}

    def losses(self, step: int) -> list[StepLosses]:
        """Reconstruction and KL of images drawn with replacement; the tokens are latent cells."""
        generator = torch.Generator().manual_seed(derive_seed("vae", self.seed, step))
        drawn = torch.randint(len(self.images), (self.settings.batch_size,), generator=generator)
        images = to_images(self.images[drawn]).to(self.device)
        mean, log_variance = self.model.posterior(images)
        noise = normals(new_seeds(len(mean), generator).to(self.device), *mean.shape[1:])
        decoded = self.model.reconstruct(mean + torch.exp(0.5 * log_variance) * noise)
        terms = {"reconstruction": F.mse_loss(decoded, images), "kl": kl_divergence(mean, log_variance).mean()}
        total = terms["reconstruction"] + self.settings.kl_weight * terms["kl"]
        return [StepLosses(terms, total, mean.shape[0] * mean.shape[2] * mean.shape[3])]

    def finish(self) -> None:
        self.measure_statistics()

    @torch.no_grad()
    def measure_statistics(self) -> None:
        """Mean and standard deviation of each latent channel over all training images, under the averaged weights.

        Raises:
            UserError: a channel is constant.
        """
        vae = KLAutoencoder(self.settings).to(self.device)
        vae.load_state_dict({**self.average.values, **self.statistics})
        sums = torch.zeros(2, self.settings.latent_channels, dtype=torch.float64)  # on the CPU: MPS has no float64
        count = 0
        for images in self.images.split(CHUNK):
            mean, _ = vae.posterior(to_images(images.to(self.device)))
            values = mean.cpu().double().transpose(0, 1).flatten(1)
            sums += torch.stack([values.sum(1), values.square().sum(1)])
            count += values.shape[1]
        first, second = sums / count
        std = (second - first.square()).clamp(min=0).sqrt()
        if float(std.min()) < MIN_LATENT_STD:
            raise UserError(
                f"model.vae.kl_weight={self.settings.kl_weight}: latent channel {int(std.argmin())} collapsed (deviation "
                f"{float(std.min()):.1e} over the training images); choose a smaller one, or fewer model.vae.latent_channels"
            )
        self.statistics["latent_mean"].copy_(first)
        self.statistics["latent_std"].copy_(std)


def load_vae(checkpoint: Path, config: VAEConfig) -> KLAutoencoder:
    """The frozen VAE of a finished `stage-vae` run: averaged weights, float32, on the CPU.

    Raises:
        UserError: the checkpoint is damaged, of an unfinished training (whose latents have no statistics yet), or of
            another architecture.
    """
    saved = load_checkpoint(checkpoint)
    if saved.step != config.steps:
        raise UserError(f"{checkpoint}: the VAE is trained to step {saved.step} of {config.steps}; finish its run first")
    vae = KLAutoencoder(config)
    own = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    if own != {name: tensor.shape for name, tensor in saved.ema.items()}:
        raise UserError(f"{checkpoint}: holds another VAE than model.vae describes; delete its run directory to train it again")
    vae.load_state_dict(saved.ema)
    return vae.eval().requires_grad_(False)
