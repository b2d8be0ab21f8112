"""A frozen VAE's latents (paper Sec. 4.4): of a small VAE trained in-suite (`model.vae.kind=kl`), or of Wan 2.1's (`wan`)."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from rf_repro.config.fields import require
from rf_repro.config.model_schema import ModelConfig
from rf_repro.config.schema import ExperimentConfig
from rf_repro.model.spaces import GenerationSpace

if TYPE_CHECKING:
    import torch

    from rf_repro.model.space import ImageSpace
    from rf_repro.model.vae import KLAutoencoder

# Wan 2.1's VAE, `AutoencoderKLWan` of diffusers, in closed form: its convolutions cost the same at every pixel; one attention
# layer of width 384 sees all latent cells of an image. A test compares these with the class, built on the meta device.
WAN_PARAMETERS = 126_892_531
WAN_CONVOLUTION_FLOPS = 6_656_864  # a pixel, encoding
WAN_ATTENTION_WIDTH = 384
WAN_DOWNSAMPLE = 8
WAN_WIDTH = 96  # channels of its widest map, at full resolution


class Latents(GenerationSpace):
    """Patches of latents, where the pixel space has patches of pixels."""

    def check(self, config: ExperimentConfig) -> None:
        patch_size, downsample = config.model.pixel.patch_size, config.model.vae.downsample
        require(patch_size % downsample == 0, "model.vae.downsample", downsample,
                f"a divisor of model.pixel.patch_size={patch_size}")  # fmt: skip

    def is_trained_first(self, config: ModelConfig) -> bool:
        match config.vae.kind:
            case "kl":
                return True
            case "wan":
                return False
        assert_never(config.vae.kind)

    def token_dim(self, config: ModelConfig) -> int:
        return config.vae.latent_channels * (config.pixel.patch_size // config.vae.downsample) ** 2

    def build(self, config: ModelConfig, device: "torch.device", load_vae: "Callable[[], KLAutoencoder]") -> "ImageSpace":
        from rf_repro.model.latent_cache import CachedAutoencoder
        from rf_repro.model.vae import LatentSpace, WanAutoencoder

        if self.is_trained_first(config):
            return LatentSpace(load_vae(), config.pixel.patch_size)
        vae, cache = WanAutoencoder(config.vae).to(device), config.vae.latent_cache
        return LatentSpace(CachedAutoencoder(vae, Path(cache)) if cache else vae, config.pixel.patch_size)

    def stored(self, config: ModelConfig) -> dict[str, int]:
        if not self.is_trained_first(config):
            return {"vae": WAN_PARAMETERS}
        from rf_repro.model.vae import meta_vae

        return {"vae": sum(parameter.numel() for parameter in meta_vae(config.vae).parameters())}

    def encode_flops(self, config: ModelConfig, image_size: int) -> int:
        if not self.is_trained_first(config):
            return wan_encode_flops(image_size)
        from rf_repro.model.vae import encode_flops

        return encode_flops(config.vae, image_size)

    def widest(self, config: ModelConfig) -> float:
        return config.vae.width / 4 if self.is_trained_first(config) else WAN_WIDTH  # the former starts at half the resolution


def wan_encode_flops(image_size: int) -> int:
    """FLOPs of encoding one square image of so many pixels a side."""
    cells = (image_size // WAN_DOWNSAMPLE) ** 2
    return WAN_CONVOLUTION_FLOPS * image_size**2 + 4 * WAN_ATTENTION_WIDTH * cells**2


KIND = Latents()
