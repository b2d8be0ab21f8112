"""Continuous representation tokens: a small diffusion head models each position's feature given the decoder's hidden state
(paper Sec. 4.4, Table 3c; after MAR, arXiv 2406.11838, with this suite's flow in place of its DDPM).

B samples, N positions, F feature width, W the head's width, D the decoder's.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.representation_schema import ContinuousConfig
from rf_repro.config.schema import SamplingConfig
from rf_repro.config.training_schema import ObjectiveConfig
from rf_repro.maths.flow import interpolate, velocity_loss
from rf_repro.maths.layers import TimeEmbedding
from rf_repro.maths.noise import new_seeds, normals
from rf_repro.maths.schedule import guide, shifted_times
from rf_repro.representation.targets import Targets
from rf_repro.representation.tokens import ALL_ROWS, RepresentationTokens

STATISTICS_DECAY = 0.99


class FeatureStatistics(nn.Module):
    """Running mean and spread of each feature channel, float32 [F]: the scale on which features are noised or compared.

    `ranks`: features are this rank's part of a global batch, maybe none of it; every rank must call, and all end alike.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("variance", torch.ones(feature_dim))

    @torch.no_grad()
    def initialise(self, features: Tensor, ranks: Ranks = ALONE) -> None:
        """From a first batch, float [..., F]."""
        mean, variance, _ = moments(features, ranks)
        self.mean.copy_(mean)
        self.variance.copy_(variance)

    @torch.no_grad()
    def update(self, features: Tensor, ranks: Ranks = ALONE) -> None:
        """Moves towards the statistics of one more batch; of one without features, nowhere."""
        mean, variance, count = moments(features, ranks)
        weight = (1 - STATISTICS_DECAY) * (count > 0).float()
        self.mean.lerp_(mean, weight)
        self.variance.lerp_(variance, weight)

    def center(self, features: Tensor) -> Tensor:
        """Zero mean in each channel."""
        return features.float() - self.mean

    def standardise(self, features: Tensor) -> Tensor:
        """Zero mean and unit spread in each channel (assumed, as is usual for diffusion in a feature space)."""
        return self.center(features) * (self.variance + 1e-6).rsqrt()


def moments(features: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel over the global batch, float32 [F], and its number of rows, int64 []. Two passes, so
    that a mean far from zero costs no digits of the variance."""
    flat = features.float().flatten(0, -2)
    total, count = flat.sum(0), torch.tensor(len(flat), device=flat.device)
    ranks.sum_([total, count])
    mean = total / count.clamp(min=1)
    squares = (flat - mean).square_().sum(0)
    ranks.sum_([squares])
    return mean, squares / count.clamp(min=1), count


class HeadBlock(nn.Module):
    """Residual MLP modulated by condition and time (adaLN, zero at initialisation). [M, W] -> [M, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(F.silu(condition)).chunk(3, -1)
        return x + gate * self.ffn(torch.addcmul(shift, self.norm(x), 1 + scale))


class DiffusionHead(nn.Module):
    """Predicts a clean feature from a noisy one, its time and the position's hidden state (x-prediction, as for pixels)."""

    def __init__(self, feature_dim: int, condition_dim: int, config: ContinuousConfig) -> None:
        super().__init__()
        self.feature_in = nn.Linear(feature_dim, config.width)
        self.condition_in = nn.Linear(condition_dim, config.width)
        self.time = TimeEmbedding(config.width)
        self.blocks = nn.ModuleList([HeadBlock(config.width) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.out = nn.Linear(config.width, feature_dim)

    def forward(self, noisy: Tensor, t: Tensor, hidden: Tensor) -> Tensor:
        """noisy float [M, F], t float [M], hidden [M, D] -> clean float32 [M, F]."""
        dtype = self.feature_in.weight.dtype
        condition = self.condition_in(hidden) + self.time(t)
        x = self.feature_in(noisy.to(dtype))
        for block in self.blocks:
            x = block(x, condition)
        return self.out(self.norm(x)).float()


class ContinuousTokens(RepresentationTokens):
    """Standardised features: identities are a linear map of them, and a diffusion head at each position draws them."""

    def __init__(self, width: int, feature_dim: int, grid: int, extent: float, norm_eps: float, config: ContinuousConfig) -> None:
        super().__init__(width, grid, extent, norm_eps)
        self.config, self.feature_dim = config, feature_dim
        self.feature_in = nn.Linear(feature_dim, width)
        self.head = DiffusionHead(feature_dim, width, config)

    def identity(self, values: Tensor) -> Tensor:  # type: ignore[override]
        return self.feature_in(values.to(self.feature_in.weight.dtype))

    def predict(self, hidden: Tensor) -> Tensor:
        """The head's condition, [..., D]."""
        return self.norm(hidden)

    def loss(
        self,
        predicted: Tensor,
        values: Tensor,
        dropped: Tensor,
        objective: ObjectiveConfig,
        generator: torch.Generator,
        rows: slice = ALL_ROWS,
    ) -> tuple[Tensor, Tensor]:
        """The pixels' velocity loss (Eq. 2), on features, over `draws` noises and times a position.

        Times are uniform (assumed): the pixels' distribution hardly visits late times, where a feature's spread is decided.
        """
        kept = ~dropped[rows]
        clean = values[kept.to(values.device)].float().flatten(0, 1).repeat(self.config.draws, 1)
        condition = predicted[kept.to(predicted.device)].flatten(0, 1).repeat(self.config.draws, 1)
        # Draws stand in the order [draw, kept sample, position].
        everyone = (self.config.draws, int((~dropped).sum()), values.shape[1])
        before = int((~dropped[: rows.start or 0]).sum())
        mine = slice(before, before + int(kept.sum()))
        t = torch.rand(everyone, generator=generator)[:, mine].flatten().to(clean.device)
        seeds = new_seeds(everyone[1], generator)[mine].to(clean.device)
        noise = normals(seeds, self.config.draws, everyone[2], self.feature_dim).transpose(0, 1).flatten(0, 2)
        noisy = interpolate(clean[:, None], noise[:, None], t)
        guess = self.head(noisy[:, 0], t, condition)[:, None]
        return velocity_loss(guess, clean[:, None], noisy, t, objective.min_one_minus_t)

    def loss_count(self, values: Tensor, dropped: Tensor) -> int:
        return self.config.draws * int((~dropped).sum()) * values.shape[1] * self.feature_dim

    def zeros(self, count: int, length: int) -> Tensor:
        return torch.zeros(count, length, self.feature_dim, device=self.start.device)

    def randomness(self, seeds_B: Tensor, count: int) -> Tensor:
        return normals(seeds_B, count, self.feature_dim)

    def draw(self, conditional: Tensor, unconditional: Tensor | None, random: Tensor, sampling: SamplingConfig) -> Tensor:
        """Euler steps from noise, with the guidance of the codes on the predicted feature."""
        z = random
        for t, t_next in pairwise(shifted_times(self.config.steps, 1.0).tolist()):
            times = torch.full((len(z),), t, device=z.device)
            clean = self.head(z, times, conditional)
            if unconditional is not None:
                clean = guide(clean, self.head(z, times, unconditional), sampling.cfg_representation)
            z = z + (clean - z) * ((t_next - t) / (1 - t))
        return z


class StandardisedTargets(Targets):
    """The features themselves, on a scale of their own."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.statistics = FeatureStatistics(feature_dim)

    def initialise(self, features: Tensor, generator: torch.Generator) -> None:
        self.statistics.initialise(features)

    def assign(self, features: Tensor, ranks: Ranks = ALONE) -> Tensor:
        self.statistics.update(features, ranks)
        return self.values(features)

    def values(self, features: Tensor) -> Tensor:
        return self.statistics.standardise(features)
