"""Representation tokens in and out of the decoder: discrete codes (paper Sec. 3.2), or the features themselves (Table 3c).

B samples, N representation tokens, D decoder width, K codes, F feature width. A token's value is an int64 code, or F numbers.
"""

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.schema import ContinuousConfig, ObjectiveConfig, SamplingConfig
from rf_repro.model.layers import RMSNorm, sincos_2d
from rf_repro.representation.continuous import DiffusionHead
from rf_repro.sample.schedule import guide, sample_top_k, shifted_times
from rf_repro.train.flow import interpolate, velocity_loss

ALL_ROWS = slice(None)


class RepresentationTokens(nn.Module, ABC):
    """An embedding is a learned 2D position plus an identity; a start token makes the first token predictable; a mask stands
    for a dropped sequence (assumed)."""

    identity: nn.Module  # value -> [..., D]

    def __init__(self, width: int, grid: int, extent: float, norm_eps: float) -> None:
        super().__init__()
        self.grid = grid
        self.position = nn.Parameter(sincos_2d(grid, width, extent))
        self.start = nn.Parameter(torch.empty(width))
        self.mask = nn.Parameter(torch.empty(width))
        self.norm = RMSNorm(width, norm_eps)

    def embed(self, values: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Values of the first n <= N tokens, [B, n] or [B, n, F], -> [B, 1 + n, D], start token first.

        `dropped` bool [B]: samples whose whole sequence is the mask.
        """
        identity = self.identity(values)
        if dropped is not None:
            identity = torch.where(dropped[:, None, None], self.mask, identity)
        tokens = identity + self.position[: values.shape[1]]
        return torch.cat([self.start.expand(values.shape[0], 1, -1), tokens], 1)

    @abstractmethod
    def predict(self, hidden: Tensor) -> Tensor:
        """What says the next token, from hidden states [..., D]."""

    @abstractmethod
    def loss(
        self,
        predicted: Tensor,
        values: Tensor,
        dropped: Tensor,
        objective: ObjectiveConfig,
        generator: torch.Generator,
        rows: slice = ALL_ROWS,
    ) -> tuple[Tensor, Tensor]:
        """L_Rep as (sum, count) of `predict`'s [B, N, ...] against the values; a dropped sequence has none.

        Args:
            rows: of `values` and `dropped`, the samples that were predicted; draws are made for all.
        """

    @abstractmethod
    def zeros(self, count: int, length: int) -> Tensor:
        """Values that stand where none are known, [count, length, ...]."""

    @abstractmethod
    def randomness(self, generator: torch.Generator) -> Tensor:
        """What one sample's draws are made of, [N, ...]."""

    @abstractmethod
    def draw(self, conditional: Tensor, unconditional: Tensor | None, random: Tensor, sampling: SamplingConfig) -> Tensor:
        """One token of each sample, guided where there is an unconditional prediction (App. A): its values [B, ...]."""


class DiscreteTokens(RepresentationTokens):
    """Codes: identities from a table of K, next-token cross-entropy, top-k sampling. This is RF (Sec. 3.2)."""

    def __init__(self, width: int, codebook_size: int, grid: int, extent: float, norm_eps: float) -> None:
        super().__init__(width, grid, extent, norm_eps)
        self.identity = nn.Embedding(codebook_size, width)
        self.head = nn.Linear(width, codebook_size)

    def predict(self, hidden: Tensor) -> Tensor:
        """Next-token logits, [..., D] -> [..., K]."""
        return self.head(self.norm(hidden))

    def loss(
        self,
        predicted: Tensor,
        values: Tensor,
        dropped: Tensor,
        objective: ObjectiveConfig,
        generator: torch.Generator,
        rows: slice = ALL_ROWS,
    ) -> tuple[Tensor, Tensor]:
        targets = values[rows].masked_fill(dropped[rows, None], -100)
        total = F.cross_entropy(predicted.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
        return total, (targets != -100).sum()

    def zeros(self, count: int, length: int) -> Tensor:
        return torch.zeros(count, length, dtype=torch.int64, device=self.start.device)

    def randomness(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.grid**2, generator=generator)

    def draw(self, conditional: Tensor, unconditional: Tensor | None, random: Tensor, sampling: SamplingConfig) -> Tensor:
        logits = conditional.float()
        if unconditional is not None:
            logits = guide(logits, unconditional.float(), sampling.cfg_representation)
        return sample_top_k(logits, sampling.top_k, random)


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
        clean = values[rows][kept].float().flatten(0, 1).repeat(self.config.draws, 1)
        condition = predicted[kept].flatten(0, 1).repeat(self.config.draws, 1)
        # Draws stand in the order [draw, kept sample, position].
        everyone = (self.config.draws, int((~dropped).sum()), values.shape[1])
        before = int((~dropped[: rows.start or 0]).sum())
        mine = slice(before, before + int(kept.sum()))
        t = torch.rand(everyone, generator=generator)[:, mine].flatten().to(clean.device)
        noise = torch.randn(*everyone, self.feature_dim, generator=generator)[:, mine].flatten(0, 2).to(clean.device)
        noisy = interpolate(clean[:, None], noise[:, None], t)
        guess = self.head(noisy[:, 0], t, condition)[:, None]
        return velocity_loss(guess, clean[:, None], noisy, t, objective.min_one_minus_t)

    def zeros(self, count: int, length: int) -> Tensor:
        return torch.zeros(count, length, self.feature_dim, device=self.start.device)

    def randomness(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.grid**2, self.feature_dim, generator=generator)

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
