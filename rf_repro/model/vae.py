"""The autoencoders of the VAE variants (paper Sec. 4.4): a small convolutional KL-VAE trained in-suite, and Wan 2.1's.

Generation sees either through `LatentSpace`, which stands where pixels stand and has tokens of the same places.

Shapes: B images, C latent channels, f pixels a latent cell covers a side, h = S/f latent cells a side.
"""

from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.model_schema import VAEConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.core.hub import find_model, loading, require_all_weights, require_safetensors
from rf_repro.core.install import extra_hint
from rf_repro.maths.layers import patchify, unpatchify

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -20.0, 10.0  # exp() stays finite whatever a young encoder says
# Of Wan's VAE alone, or within a pipeline, whose other models are large.
WAN_FILES = (
    "config.json",
    "diffusion_pytorch_model*.safetensors",
    "diffusion_pytorch_model*.json",
    "vae/*.json",
    "vae/*.safetensors",
)
MAX_WIDENING = 4  # of the channels, over those at half the resolution
RESIDUAL_GAIN = 0.5  # of the convolutions that write to the residual stream


class Autoencoder(Protocol):
    """A frozen VAE: images in [-1, 1] to latents of zero mean and unit deviation in each channel, and back."""

    downsample: int
    latent_channels: int

    def encode(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W] -> float32 [B, C, H/f, W/f], the posterior's mean, normalised."""

    def decode(self, latents: Tensor) -> Tensor:
        """The way back: float32 [B, C, h, w] -> float32 [B, 3, h*f, w*f]."""


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions, without a norm: none is needed to train at these depths. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.silu(self.inner(F.silu(x))))


class KLAutoencoder(nn.Module):
    """A convolutional VAE without attention; its convolutions start at half the resolution, which is what makes it cheap.

    Buffers `latent_mean` and `latent_std` [C] hold the statistics of the latents over the training images; they are part of
    the weights, and are set when training ends.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.downsample, self.latent_channels = config.downsample, config.latent_channels
        levels = config.downsample.bit_length() - 1
        widths = [config.width * min(2**level, MAX_WIDENING) for level in range(levels)]  # at 1/2, 1/4, ... of the resolution
        down: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1), ResidualBlock(widths[0])]
        for finer, coarser in pairwise(widths):
            down += [nn.Conv2d(finer, coarser, 2, stride=2), ResidualBlock(coarser)]
        self.encoder = nn.Sequential(*down, nn.SiLU(), nn.Conv2d(widths[-1], 2 * config.latent_channels, 1))
        up: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1), ResidualBlock(widths[-1])]
        for finer, coarser in reversed(list(pairwise(widths))):
            up += [nn.Conv2d(coarser, 4 * finer, 1), nn.PixelShuffle(2), ResidualBlock(finer)]
        self.decoder = nn.Sequential(*up, nn.SiLU(), nn.Conv2d(widths[0], 12, 3, padding=1), nn.PixelShuffle(2))
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fills every parameter from `seed` and its name: normal, std 1/sqrt(fan in), biases zero."""
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
                continue
            generator = torch.Generator().manual_seed(derive_seed("init", seed, f"vae.{name}"))
            std = parameter[0].numel() ** -0.5 * (RESIDUAL_GAIN if name.endswith(".out.weight") else 1.0)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; images and latents are float32 outside."""
        return next(self.parameters()).dtype

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of q(z | images), each float32 [B, C, S/f, S/f], not normalised."""
        x = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Images float32 [B, 3, S, S] of latents that are not normalised, float32 [B, C, S/f, S/f]."""
        return self.decoder(latents.to(self.dtype).contiguous(memory_format=torch.channels_last)).float()

    def encode(self, images: Tensor) -> Tensor:
        mean, _ = self.posterior(images)
        return (mean - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        return self.reconstruct(latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None])


def random_vae(config: VAEConfig) -> KLAutoencoder:
    """An in-suite VAE that was not trained: it costs what a trained one does."""
    vae = KLAutoencoder(config)
    vae.initialise(0)
    return vae.requires_grad_(False)


def meta_vae(config: VAEConfig) -> KLAutoencoder:
    """The in-suite VAE, without memory."""
    with torch.device("meta"):
        return KLAutoencoder(config)


def encode_flops(config: VAEConfig, image_size: int) -> int:
    """FLOPs of encoding one square image, as counted by PyTorch, without computing it."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        meta_vae(config).posterior(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each element, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class WanAutoencoder(nn.Module):
    """Wan 2.1's VAE (arXiv 2503.20314) through diffusers; an image is a video of one frame. Frozen.

    Args:
        config: `pretrained` is a folder or hub id, of the VAE itself or of a pipeline with a `vae` folder;
            `downsample` and `latent_channels` must be the model's own.

    Raises:
        UserError: diffusers is not installed, nothing loadable is at `pretrained`, or the model is another than configured
            or lacks a weight.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKLWan
        except ImportError as error:
            raise UserError(f"model.vae.kind='wan': needs diffusers ({error}); install it with: {extra_hint('hub')}") from None
        if not config.pretrained:
            raise UserError("model.vae.pretrained='': must be a folder or hub id of Wan 2.1's VAE where model.vae.kind='wan'")
        place = f"model.vae.pretrained={config.pretrained!r}"
        folder = find_model(config.pretrained, place, WAN_FILES)
        folder = folder if (folder / "config.json").is_file() else folder / "vae"
        require_safetensors(folder, place)
        with loading(place, "give a folder or hub id of a diffusers Wan VAE, with safetensors"):
            self.vae, info = AutoencoderKLWan.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
            )  # fmt: skip
        require_all_weights(info, place)
        self.downsample, self.latent_channels = self.vae.config.scale_factor_spatial, self.vae.config.z_dim
        if (config.downsample, config.latent_channels) != (self.downsample, self.latent_channels):
            raise UserError(
                f"model.vae.downsample={config.downsample}, latent_channels={config.latent_channels}: must be "
                f"{self.downsample} and {self.latent_channels}, those of {config.pretrained}"
            )
        for name in ("mean", "std"):  # [C, 1, 1, 1], to go with [B, C, frames, h, w]
            values = torch.tensor(getattr(self.vae.config, f"latents_{name}"))
            self.register_buffer(name, values.view(-1, 1, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        mean = self.vae.encode(images.to(self.vae.dtype)[:, :, None]).latent_dist.mode().float()
        return ((mean - self.mean) / self.std)[:, :, 0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode((latents[:, :, None] * self.std + self.mean).to(self.vae.dtype)).sample[:, :, 0].float()


class LatentSpace:
    """Patches of a frozen VAE's latents, where `PixelSpace` has patches of pixels: token n covers the same pixels in both.

    The posterior's mean stands for an image, never a draw from it (assumed: a target that does not change is easier to
    learn, and the same image gives the same latents in every variant and step). No gradient flows through it.
    """

    def __init__(self, vae: Autoencoder, patch_size: int) -> None:
        """`patch_size`: pixels a token covers a side, a multiple of the VAE's `downsample`."""
        self.vae, self.cells, self.channels = vae, patch_size // vae.downsample, vae.latent_channels

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> float32 [B, P, C * cells^2], of zero mean and unit deviation over training images.

        An image's latents depend on the other images of the batch by float32 rounding at most.
        """
        return patchify(self.vae.encode(images.float()), self.cells)

    @torch.no_grad()
    def decode(self, patches: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """float32 [B, P, C * cells^2] -> images float32 [B, 3, H, W] around [-1, 1]. `grid`: of tokens; None: a square."""
        return self.vae.decode(unpatchify(patches.float(), self.cells, self.channels, grid))
