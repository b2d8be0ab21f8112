"""SigLIP2 (arXiv 2502.14786) as understanding encoder: its naflex checkpoints.

T tokens of the pack.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.encoders.siglip2 import POSITIONS
from rf_repro.model.pretrained_encoder import SIZES, PretrainedEncoder
from rf_repro.model.segments import Segments

# Mean and deviation of pixels in [0, 1] that the published models were trained with (their preprocessor_config.json).
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class SigLIP2Encoder(PretrainedEncoder):
    """transformers' `Siglip2VisionModel`, without its pooling head."""

    kind = "siglip2"
    model_types = ("siglip2", "siglip2_vision_model")

    @property
    def layers(self) -> nn.ModuleList:
        layers = self.model.encoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def norm(self) -> nn.Module:
        norm: nn.Module = self.model.post_layernorm
        return norm

    @classmethod
    def make(cls, theirs: Any) -> Any:
        from transformers import Siglip2VisionModel

        return Siglip2VisionModel(theirs)

    @classmethod
    def settings(cls, values: dict[str, Any]) -> Any:
        from transformers import Siglip2VisionConfig

        whole = values.get("model_type") == cls.model_types[0] and values.get("vision_config")
        vision = values["vision_config"] if whole else values
        return Siglip2VisionConfig.from_dict({**vision, "attention_dropout": 0.0, "vision_use_head": False})

    @classmethod
    def published(cls, config: EncoderConfig) -> dict[str, Any]:
        sizes = {key: getattr(config, name) for name, key in SIZES.items()}
        return {"model_type": "siglip2_vision_model", "num_patches": POSITIONS, **sizes}

    @classmethod
    def pixel_statistics(cls, config: EncoderConfig) -> tuple[Sequence[float], Sequence[float]]:
        return HALF

    def embed(
        self, patches: Tensor, shapes: list[tuple[int, int, int]], lengths: list[int]
    ) -> tuple[Tensor, Segments, dict[str, Any]]:
        """Patches, with the learned positions resized to each image's grid as transformers does it."""
        embeddings: Any = self.model.embeddings
        weight = embeddings.patch_embedding.weight
        pixel_by_pixel = patches.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)  # its order: the channels of a pixel together
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.view(side, side, -1)
        resized: dict[tuple[int, int], Tensor] = {}
        for _, *grid in shapes:
            rows, columns = grid
            if (rows, columns) not in resized:
                spatial = torch.tensor([grid], device=patches.device)
                resized[rows, columns] = embeddings.resize_positional_embeddings(table, spatial, rows * columns)[0]
        positions = torch.cat([resized[rows, columns] for count, rows, columns in shapes for _ in range(count)])
        x_TD = embeddings.patch_embedding(pixel_by_pixel.to(weight.dtype)) + positions
        return x_TD, Segments.of(lengths, device=patches.device), {}
