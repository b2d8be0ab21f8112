"""Representation tokens in and out of the decoder (paper Sec. 3.2), whatever their values are.

B samples, N representation tokens, D decoder width, F feature width. A token's value is an int64 code, or F numbers, say.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from rf_repro.config.schema import SamplingConfig
from rf_repro.config.training_schema import ObjectiveConfig
from rf_repro.maths.layers import Grid, RMSNorm, sincos_2d, upper_left

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

    def embed_one(self, values: Tensor, index: int, grid: Grid) -> Tensor:
        """Values [B, ...] of the `index`-th token of a sequence on `grid` -> [B, D]."""
        return self.identity(values) + upper_left(self.position, grid)[index]

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
    def randomness(self, seeds_B: Tensor, count: int) -> Tensor:
        """What each sample's draws of `count` tokens are made of, [B, count, ...]."""

    @abstractmethod
    def draw(self, conditional: Tensor, unconditional: Tensor | None, random: Tensor, sampling: SamplingConfig) -> Tensor:
        """One token of each sample, guided where there is an unconditional prediction (App. A): its values [B, ...]."""
