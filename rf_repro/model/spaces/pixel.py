"""Pixels themselves: the bottleneck-free space (paper Sec. 3.2)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rf_repro.config.model_schema import ModelConfig
from rf_repro.model.spaces import GenerationSpace

if TYPE_CHECKING:
    import torch

    from rf_repro.model.space import ImageSpace
    from rf_repro.model.vae import KLAutoencoder


class Pixels(GenerationSpace):
    """Patches of pixels."""

    def token_dim(self, config: ModelConfig) -> int:
        return 3 * config.pixel.patch_size**2

    def build(self, config: ModelConfig, device: "torch.device", load_vae: "Callable[[], KLAutoencoder]") -> "ImageSpace":
        from rf_repro.model.space import PixelSpace

        return PixelSpace(config.pixel.patch_size)


KIND = Pixels()
