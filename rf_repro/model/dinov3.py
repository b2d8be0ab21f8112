"""DINOv3 (arXiv 2508.10104) as understanding encoder.

P patches of an image, T tokens of the pack.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.encoders.dinov3 import GATED, REGISTERS
from rf_repro.model.pretrained_encoder import SIZES, PretrainedEncoder
from rf_repro.model.segments import Segments

# What would make a feature depend on chance or on the other images of the pack.
REGULARISATION = {"attention_dropout": 0.0, "drop_path_rate": 0.0, "pos_embed_shift": None, "pos_embed_jitter": None,
                  "pos_embed_rescale": None}  # fmt: skip
# Mean and deviation of pixels in [0, 1] that the published models were trained with (their preprocessor_config.json).
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SATELLITE = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


class DINOv3Encoder(PretrainedEncoder):
    """transformers' `DINOv3ViTModel`."""

    kind = "dinov3"
    model_types = ("dinov3_vit",)

    @property
    def layers(self) -> nn.ModuleList:
        layers = self.model.model.layer
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def norm(self) -> nn.Module:
        norm: nn.Module = self.model.norm
        return norm

    @classmethod
    def make(cls, theirs: Any) -> Any:
        from transformers import DINOv3ViTModel

        model = DINOv3ViTModel(theirs)
        del model.rope_embeddings  # angles are those of each image's own grid, and are made where they are used
        return model

    @classmethod
    def settings(cls, values: dict[str, Any]) -> Any:
        from transformers import DINOv3ViTConfig

        return DINOv3ViTConfig.from_dict({**values, **REGULARISATION})

    @classmethod
    def published(cls, config: EncoderConfig) -> dict[str, Any]:
        gated = config.pretrained in GATED
        has_bias = "vit7b16" not in config.pretrained  # of queries and values
        sizes = {key: getattr(config, name) for name, key in SIZES.items()}
        return {"model_type": "dinov3_vit", "num_register_tokens": REGISTERS, "use_gated_mlp": gated,
                "hidden_act": "silu" if gated else "gelu", "query_bias": has_bias, "value_bias": has_bias, **sizes}  # fmt: skip

    @classmethod
    def pixel_statistics(cls, config: EncoderConfig) -> tuple[Sequence[float], Sequence[float]]:
        return SATELLITE if config.pretrained.endswith("sat493m") else IMAGENET

    def embed(
        self, patches: Tensor, shapes: list[tuple[int, int, int]], lengths: list[int]
    ) -> tuple[Tensor, Segments, dict[str, Any]]:
        """Tokens [all images' class and register tokens | all images' patches].

        The layers turn the last tokens of a sequence, as many as there are angles, and leave those before as they are: this
        order goes through them unchanged.
        """
        embeddings: Any = self.model.embeddings
        convolution = embeddings.patch_embeddings
        dtype = convolution.weight.dtype
        x = F.linear(patches.to(dtype), convolution.weight.flatten(1), convolution.bias)
        prefix = torch.cat([embeddings.cls_token, embeddings.register_tokens], 1).expand(len(lengths), -1, -1)
        segments = Segments.of([prefix.shape[1]] * len(lengths), lengths, device=patches.device)
        centres = torch.cat([patch_centres(rows, columns) for count, rows, columns in shapes for _ in range(count)])
        config = self.model.config
        frequencies = 1 / config.rope_theta ** torch.arange(0, 1, 4 * config.num_attention_heads / self.width, device="cpu")
        angles = (2 * math.pi * centres.to(patches.device)[:, :, None] * frequencies.to(patches.device)).flatten(1).tile(2)
        turned = {"position_embeddings": (angles.cos().to(dtype), angles.sin().to(dtype))}
        return torch.cat([prefix.flatten(0, 1), x]), segments, turned


@lru_cache(maxsize=1024)
def patch_centres(rows: int, columns: int) -> Tensor:
    """(y, x) of every patch's centre in raster order, of an image that spans [-1, 1] both ways. float32 [P, 2], on the CPU."""
    y, x = ((torch.arange(0.5, count, device="cpu") / count * 2 - 1) for count in (rows, columns))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
