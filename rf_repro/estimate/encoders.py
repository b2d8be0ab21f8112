"""Sizes of the encoders and the VAE that come with pretrained weights, in closed form: nothing is downloaded or imported.

Tests compare them with the classes of transformers and diffusers, built on the meta device.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rf_repro.config.schema import EncoderConfig
from rf_repro.core.errors import UserError

# The published DINOv3 ViTs whose feed-forward is gated (their model cards); the others' has two matrices.
GATED_DINOV3 = (
    "facebook/dinov3-vits16plus-pretrain-lvd1689m",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    "facebook/dinov3-vit7b16-pretrain-lvd1689m",
    "facebook/dinov3-vit7b16-pretrain-sat493m",
)
DINOV3_REGISTERS = 4
SIGLIP2_POSITIONS = 256  # learned, of a 16x16 grid that is resized to the image's

# Wan 2.1's VAE, `AutoencoderKLWan` of diffusers: its convolutions cost the same at every pixel; one attention layer of width
# 384 sees all latent cells of an image.
WAN_PARAMETERS = 126_892_531
WAN_CONVOLUTION_FLOPS = 6_656_864  # a pixel, encoding
WAN_ATTENTION_WIDTH = 384
WAN_DOWNSAMPLE = 8


def wan_encode_flops(image_size: int) -> int:
    """FLOPs of encoding one square image of so many pixels a side."""
    cells = (image_size // WAN_DOWNSAMPLE) ** 2
    return WAN_CONVOLUTION_FLOPS * image_size**2 + 4 * WAN_ATTENTION_WIDTH * cells**2


@dataclass(frozen=True)
class EncoderSize:
    """Parameters in all, of matrices (2 FLOPs each and token), and of extra tokens beside an image's patches."""

    total: int
    matmul: int
    prefix_tokens: int
    is_gated: bool


def pretrained_encoder(config: EncoderConfig) -> EncoderSize:
    """DINOv3 or SigLIP2 of that config.

    Raises:
        UserError: `kind` is "vit", which has no pretrained form.
    """
    w, f, layers, patch_dim = config.width, config.ffn_width, config.num_layers, 3 * config.patch_size**2
    if config.kind == "dinov3":
        gated = _is_gated(config)
        matrices = 3 if gated else 2
        matmul = layers * (4 * w * w + matrices * w * f) + patch_dim * w
        # Biases of q, v and out (not k), of the feed-forward, two LayerNorms and two layer scales; then class, mask and
        # register tokens, the patches' bias, the final norm.
        block = 3 * w + (matrices - 1) * f + w + 4 * w + 2 * w
        return EncoderSize(matmul + layers * block + (2 + DINOV3_REGISTERS) * w + w + 2 * w, matmul, 1 + DINOV3_REGISTERS, gated)
    if config.kind == "siglip2":
        matmul = layers * (4 * w * w + 2 * w * f) + patch_dim * w
        block = 4 * w + f + w + 4 * w
        return EncoderSize(matmul + layers * block + SIGLIP2_POSITIONS * w + w + 2 * w, matmul, 0, False)
    raise UserError(f"model.encoder.kind={config.kind!r}: must be dinov3 or siglip2 where data.world=image_text")


def _is_gated(config: EncoderConfig) -> bool:
    """A local checkpoint says so itself; published ones are known."""
    path = Path(config.pretrained) / "config.json"
    if config.pretrained and path.is_file():
        return bool(json.loads(path.read_text(encoding="utf-8")).get("use_gated_mlp", False))
    return config.pretrained in GATED_DINOV3
