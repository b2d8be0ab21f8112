"""Representation tokens in and out of the decoder: discrete codes (paper Sec. 3.2), or the features themselves (Table 3c).

B samples, N representation tokens, D decoder width, K codes, F feature width. A token's value is an int64 code, or F numbers.
"""

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.schema import ContinuousConfig, ObjectiveConfig, SamplingConfig
from rf_repro.maths.flow import interpolate, velocity_loss
from rf_repro.maths.layers import RMSNorm, sincos_2d, upper_left
from rf_repro.maths.schedule import guide, sample_top_k, shifted_times
from rf_repro.model.layout import Grid
from rf_repro.representation.continuous import DiffusionHead

ALL_ROWS = slice(None)


class RepresentationTokens(nn.Module, ABC):
    """An embedding is a learned 2D position plus an identity; a start token makes the first token predictable; a mask stands
    for a dropped sequence (assumed)."""

    identity: nn.Module  # value -> [..., D]

    def __init__(self, width: int, grid: int, extent: float, norm_eps: float) -> None:
        """`grid`: cells a side of the largest image; positions of smaller ones are its upper left corner."""
        super().__init__()
        self.grid: Grid = (grid, grid)
        self.position = nn.Parameter(sincos_2d(grid, width, extent))
        self.start = nn.Parameter(torch.empty(width))
        self.mask = nn.Parameter(torch.empty(width))
        self.norm = RMSNorm(width, norm_eps)

    def embed(self, values: Tensor, dropped: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Values of the first n <= N tokens, [B, n] or [B, n, F], -> [B, 1 + n, D], start token first.

        Args:
            dropped: bool [B], samples whose whole sequence is the mask.
            grid: rows and columns of the N tokens; None: of the largest image.
        """
        return self.place(self.identity(values), dropped, grid)

    def place(self, identity: Tensor, dropped: Tensor | None, grid: Grid | None) -> Tensor:
        """As `embed`, from identities [B, n, D]."""
        if dropped is not None:
            identity = torch.where(dropped[:, None, None], self.mask, identity)
        tokens = identity + upper_left(self.position, grid or self.grid)[: identity.shape[1]]
        return torch.cat([self.start.expand(identity.shape[0], 1, -1), tokens], 1)

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
            values: of the samples that were predicted.
            dropped: bool, on the CPU, of all ranks' samples, for which draws are made; `rows` of them were predicted.
        """

    @abstractmethod
    def loss_count(self, values: Tensor, dropped: Tensor) -> int:
        """The count that `loss` has for these samples; known before anything is predicted."""

    @abstractmethod
    def zeros(self, count: int, length: int) -> Tensor:
        """Values that stand where none are known, [count, length, ...]."""

    @abstractmethod
    def randomness(self, generator: torch.Generator, count: int) -> Tensor:
        """What one sample's draws of `count` tokens are made of, [count, ...]."""

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
        targets = values.masked_fill(dropped[rows, None].to(values.device), -100)
        total = F.cross_entropy(predicted.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
        return total, (targets != -100).sum()

    def loss_count(self, values: Tensor, dropped: Tensor) -> int:
        return int((~dropped).sum()) * values.shape[1]

    def zeros(self, count: int, length: int) -> Tensor:
        return torch.zeros(count, length, dtype=torch.int64, device=self.start.device)

    def randomness(self, generator: torch.Generator, count: int) -> Tensor:
        return torch.rand(count, generator=generator)

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
        clean = values[kept.to(values.device)].float().flatten(0, 1).repeat(self.config.draws, 1)
        condition = predicted[kept.to(predicted.device)].flatten(0, 1).repeat(self.config.draws, 1)
        # Draws stand in the order [draw, kept sample, position].
        everyone = (self.config.draws, int((~dropped).sum()), values.shape[1])
        before = int((~dropped[: rows.start or 0]).sum())
        mine = slice(before, before + int(kept.sum()))
        t = torch.rand(everyone, generator=generator)[:, mine].flatten().to(clean.device)
        noise = torch.randn(*everyone, self.feature_dim, generator=generator)[:, mine].flatten(0, 2).to(clean.device)
        noisy = interpolate(clean[:, None], noise[:, None], t)
        guess = self.head(noisy[:, 0], t, condition)[:, None]
        return velocity_loss(guess, clean[:, None], noisy, t, objective.min_one_minus_t)

    def loss_count(self, values: Tensor, dropped: Tensor) -> int:
        return self.config.draws * int((~dropped).sum()) * values.shape[1] * self.feature_dim

    def zeros(self, count: int, length: int) -> Tensor:
        return torch.zeros(count, length, self.feature_dim, device=self.start.device)

    def randomness(self, generator: torch.Generator, count: int) -> Tensor:
        return torch.randn(count, self.feature_dim, generator=generator)

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
