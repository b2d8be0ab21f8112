"""Continuous representation tokens: a small diffusion head models each position's feature given the decoder's hidden state
(paper Sec. 4.4, Table 3c; after MAR, arXiv 2406.11838, with this suite's flow in place of its DDPM).

B samples, N positions, F feature width, W the head's width, D the decoder's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.schema import ContinuousConfig
from rf_repro.maths.layers import TimeEmbedding

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
