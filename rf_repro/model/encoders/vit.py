"""The ViT that this suite trains itself: images of one size, pretrained in-suite where the config says so."""

from typing import TYPE_CHECKING

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.encoders import EncoderKind

if TYPE_CHECKING:
    from rf_repro.model.encoder import Encoder


class ViT(EncoderKind):
    """`rf_repro.model.encoder.VisionTransformer`."""

    is_pretrained = False
    takes_any_size = False
    for_masked_images = ("mask_token",)

    def build(self, config: EncoderConfig, image_size: int) -> "Encoder":
        from rf_repro.model.encoder import VisionTransformer

        return VisionTransformer(config, image_size)

    def prefix_tokens(self, config: EncoderConfig) -> int:
        return 0

    def kept(self, config: EncoderConfig) -> tuple[int, int]:
        return 9, 1


KIND = ViT()
