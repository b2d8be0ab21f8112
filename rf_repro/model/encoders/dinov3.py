"""DINOv3 (arXiv 2508.10104), the paper's encoder: the modules of `transformers`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.core.files import read_object
from rf_repro.core.hub import DOWNLOAD
from rf_repro.model.encoders import EncoderKind, EncoderSize

if TYPE_CHECKING:
    from torch import Tensor

    from rf_repro.model.encoder import Encoder

# The published ViTs whose feed-forward is gated (their model cards); the others' has two matrices.
GATED = (
    "facebook/dinov3-vits16plus-pretrain-lvd1689m",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    "facebook/dinov3-vit7b16-pretrain-lvd1689m",
    "facebook/dinov3-vit7b16-pretrain-sat493m",
)
REGISTERS = 4


class DINOv3(EncoderKind):
    """Images of any size, with a class token and registers."""

    def build(self, config: EncoderConfig, image_size: int) -> "Encoder":
        from rf_repro.model.dinov3 import DINOv3Encoder

        return DINOv3Encoder(config)

    def weights(self, encoder: "Encoder", source: str) -> "Iterator[tuple[str, Tensor]]":
        from rf_repro.model.pretrained_encoder import PretrainedEncoder, read_encoder_weights

        assert isinstance(encoder, PretrainedEncoder)
        yield from read_encoder_weights(encoder, source).items()

    def size(self, config: EncoderConfig) -> EncoderSize:
        w, f, layers = config.width, config.ffn_width, config.num_layers
        matrices = 3 if is_gated(config) else 2
        matmul = layers * (4 * w * w + matrices * w * f) + 3 * config.patch_size**2 * w
        # Biases of q, v and out (not k), of the feed-forward, two LayerNorms and two layer scales; then class, mask and
        # register tokens, the patches' bias, the final norm.
        block = 3 * w + (matrices - 1) * f + w + 4 * w + 2 * w
        return EncoderSize(matmul + layers * block + (2 + REGISTERS) * w + w + 2 * w, matmul, 1 + REGISTERS)

    def stand_in(self, config: EncoderConfig) -> EncoderConfig:
        return replace(config, kind="vit", num_layers=1, pretrained="")

    def kept(self, config: EncoderConfig) -> tuple[int, int]:
        return 14, 4 if is_gated(config) else 2


def is_gated(config: EncoderConfig) -> bool:
    """Whether the feed-forward is: a local checkpoint says so itself; published ones are known."""
    path = Path(config.pretrained) / "config.json"
    if config.pretrained and path.is_file():
        return bool(read_object(path, remedy=DOWNLOAD).get("use_gated_mlp", False))
    return config.pretrained in GATED


KIND = DINOv3()
