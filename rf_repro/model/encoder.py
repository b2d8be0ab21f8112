"""The understanding encoder: a vision transformer, and the masked-image head that pretrains it at `tiny`."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.maths.layers import patchify, pool_2x2, sincos_2d


class Encoder(Protocol):
    """An encoder, whatever its kind: a module of which RFModel and the trainer use this much.

    Attributes:
        patch_size: pixels.
        norm: the final norm, for understanding: [..., D] -> [..., D].
        layers: first to last; each is called as a module and may be wrapped in place.
    """

    patch_size: int

    @property
    def norm(self) -> Any: ...

    @property
    def layers(self) -> nn.ModuleList: ...

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Patch features of the last layer before the final norm (paper Sec. 3.1), [B, P, D] of each batch [B, 3, H, W]."""
        ...


class EncoderBlock(nn.Module):
    """Pre-norm bidirectional block. [B, P, D] -> [B, P, D]."""

    def __init__(self, width: int, num_heads: int, ffn_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_width), nn.ReLU(), nn.Linear(ffn_width, width))

    def forward(self, x: Tensor) -> Tensor:
        B, P, D = x.shape
        heads = self.qkv(self.attention_norm(x)).view(B, P, 3, self.num_heads, D // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if x.device.type == "cpu":  # explicit matmuls are faster than the CPU's fused kernel in bf16
            attended = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).reshape(B, P, D))
        return x + self.ffn(self.ffn_norm(x))


class VisionTransformer(nn.Module):
    """A plain ViT for square images.

    `forward` gives patch features of the last layer *before* the final norm, which is what representation targets are
    made of (paper Sec. 3.1); `norm` is for understanding.
    """

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.grid = image_size // config.patch_size
        self.patch_in = nn.Linear(3 * config.patch_size**2, config.width)
        self.position = nn.Parameter(0.3 * sincos_2d(self.grid, config.width, extent=self.grid))
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(
            [EncoderBlock(config.width, config.num_heads, config.ffn_width) for _ in range(config.num_layers)]
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """
        Args:
            images: [B, 3, S, S] in [-1, 1], in the weights' dtype.
            masked: bool [B, P], patches replaced by the mask token.

        Returns:
            Features before the final norm, [B, P, width].
        """
        x = self.patch_in(patchify(images, self.patch_size))
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token, x)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        return x

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """As `PretrainedEncoder.encode`: features of several batches of images, here all of one size, in one pass."""
        return list(self(torch.cat(list(images))).split([len(batch) for batch in images]))

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks, in order."""
        return self.blocks

    def pooled(self, images: Tensor) -> Tensor:
        """Features before the final norm, pooled 2x2: [B, P/4, width]. Paper: Sec. 3.1."""
        return pool_2x2(self(images))


class MaskedImageHead(nn.Module):
    """Reconstructs masked patches from encoder features: one block and a linear map to pixels (after MAE)."""

    MASK_RATIO = 0.5

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.norm = nn.LayerNorm(config.width)
        self.block = EncoderBlock(config.width, config.num_heads, config.ffn_width)
        self.out = nn.Linear(config.width, 3 * config.patch_size**2)

    def forward(self, encoder: VisionTransformer, images: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error over the masked patches' pixels as (sum, count)."""
        predicted = self.out(self.block(self.norm(encoder(images, masked)))).float()
        errors = (predicted - patchify(images, self.patch_size).float()).square()[masked]
        return errors.sum(), torch.tensor(errors.numel())
