"""REPA: pixel tokens of a middle layer are drawn towards the encoder's features of the clean image (paper Table 3b, after
arXiv 2410.06940). No representation tokens.

B samples, P pixel tokens, F feature width, D the decoder's width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.maths.layers import Grid
from rf_repro.representation.continuous import StandardisedTargets


class Projector(nn.Module):
    """REPA's three linear layers with SiLU between them. [B, P, D] -> [B, P, F]. `layer`: whose hidden states it takes, after so
    many blocks."""

    def __init__(self, width: int, inner: int, feature_dim: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.layers = nn.Sequential(
            nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, feature_dim)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layers(hidden)

    @staticmethod
    def loss(projected: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Negative cosine similarity of [B, P, F] and [B, P, F] as (sum, count) over tokens; -1 where they agree."""
        similarity = F.cosine_similarity(projected.float(), features.float(), dim=-1)
        return -similarity.sum(), torch.tensor(similarity.numel())


def resize_grid(features: Tensor, source: Grid, target: Grid) -> Tensor:
    """Features on a grid of (rows, columns), [B, rows*columns, F], interpolated onto another; both span one image."""
    if source == target:
        return features
    planes = features.float().transpose(1, 2).unflatten(2, source)
    resized = F.interpolate(planes, size=target, mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(2).transpose(1, 2)


class AlignmentTargets(StandardisedTargets):
    """Features on the generation tokens' grid, centred where the codebook's would be."""

    def __init__(self, feature_dim: int, center: bool) -> None:
        super().__init__(feature_dim)
        self.center = center

    def features(self, encoded: Tensor, grid: Grid, pixel_grid: Grid) -> Tensor:
        return resize_grid(encoded.float(), grid, pixel_grid)

    def values(self, features: Tensor) -> Tensor:
        return self.statistics.center(features) if self.center else features
