"""The way of images into generation tokens and back; `rf_repro.model.spaces` has the spaces by name."""

from typing import Protocol

from torch import Tensor

from rf_repro.maths.layers import Grid, patchify, unpatchify


class ImageSpace(Protocol):
    """B images of H x W pixels; P = H W / model.pixel.patch_size^2 tokens in raster order, C numbers each."""

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> float32 [B, P, C] of about unit scale."""

    def decode(self, patches: Tensor, grid: Grid | None = None) -> Tensor:
        """The inverse: float32 [B, P, C] -> images [B, 3, H, W] around [-1, 1]. `grid`: rows and columns of tokens; None: a
        square."""


class PixelSpace:
    """Pixels themselves: the bottleneck-free space (Sec. 3.2)."""

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size

    def encode(self, images: Tensor) -> Tensor:
        return patchify(images.float(), self.patch_size)

    def decode(self, patches: Tensor, grid: Grid | None = None) -> Tensor:
        return unpatchify(patches, self.patch_size, grid=grid)
