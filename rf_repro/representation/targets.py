"""What the encoder's features become before each step (paper Sec. 3.1): values of representation tokens, or what pixel tokens
are aligned with.

N features of this rank (it may have none), F their width.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.maths.layers import Grid, pool_2x2


class Targets(nn.Module, ABC):
    """Its buffers are the kind's state: they move without gradients, and are kept in checkpoints.

    Methods that take `ranks` take this rank's part of a global batch, and every rank must call them.
    """

    num_codes = 0  # where a token's value is one code: of so many
    warm_up_batches = 0  # before the first step, for `warm_up`

    def features(self, encoded: Tensor, grid: Grid, pixel_grid: Grid) -> Tensor:
        """Features of an image's patches, [B, P, F] on `grid`, -> those to assign, float32 [B, N, F]: pooled 2x2 (assumed)."""
        return pool_2x2(encoded, grid).float()

    @abstractmethod
    def initialise(self, features: Tensor, generator: torch.Generator) -> None:
        """From the first features float32 [N, F], of all ranks; the generator is alike on all of them."""

    def warm_up(self, features: Tensor, ranks: Ranks) -> None:
        """Moves the state alone, by one batch before the first step."""

    @abstractmethod
    def assign(self, features: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """Targets [N, ...] of a step's features float32 [N, F]; moves the state."""

    @abstractmethod
    def values(self, features: Tensor) -> Tensor:
        """Targets of features, in training or not; moves nothing."""

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Columns of the row of metrics that is due, of what was assigned since the last one."""
        return {}
