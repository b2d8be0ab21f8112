"""SigLIP2 (arXiv 2502.14786): the modules of `transformers`, naflex checkpoints."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.encoders import EncoderKind, EncoderSize

if TYPE_CHECKING:
    from torch import Tensor

    from rf_repro.model.encoder import Encoder

POSITIONS = 256  # learned, of a 16x16 grid that is resized to the image's


class SigLIP2(EncoderKind):
    """Images of any size."""

    def build(self, config: EncoderConfig, image_size: int) -> "Encoder":
        from rf_repro.model.siglip2 import SigLIP2Encoder

        return SigLIP2Encoder(config)

    def weights(self, encoder: "Encoder", source: str) -> "Iterator[tuple[str, Tensor]]":
        from rf_repro.model.pretrained_encoder import PretrainedEncoder, read_encoder_weights

        assert isinstance(encoder, PretrainedEncoder)
        yield from read_encoder_weights(encoder, source).items()

    def size(self, config: EncoderConfig) -> EncoderSize:
        w, f, layers = config.width, config.ffn_width, config.num_layers
        matmul = layers * (4 * w * w + 2 * w * f) + 3 * config.patch_size**2 * w
        block = 4 * w + f + w + 4 * w
        return EncoderSize(matmul + layers * block + POSITIONS * w + w + 2 * w, matmul, 0)

    def stand_in(self, config: EncoderConfig) -> EncoderConfig:
        return replace(config, kind="vit", num_layers=1, pretrained="")

    def kept(self, config: EncoderConfig) -> tuple[int, int]:
        return 12, 2


KIND = SigLIP2()
