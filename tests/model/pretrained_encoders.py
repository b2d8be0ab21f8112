"""Tiny DINOv3 and SigLIP2 models of transformers, and what they see, for tests."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.encoders import encoder_of
from rf_repro.model.pretrained_encoder import PretrainedEncoder, load_encoder_weights

transformers = pytest.importorskip("transformers", reason="the encoders need transformers: pip install -e '.[hub]'")

P = 4  # pixels of a patch
KINDS = ("dinov3", "dinov3 gated", "siglip2")
SIZES = [(2, 16, 24), (1, 8, 8), (3, 24, 16), (1, 40, 12), (2, 16, 24)]  # images of a pack: B, H, W
TOLERANCE = 1e-5  # of features of order one, fp32
BF16_TOLERANCE = 0.02  # relative to the largest feature; measured: 0.0103
IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))


def theirs(kind: str, seed: int = 0) -> nn.Module:
    """A tiny model of transformers, every weight random: norms, layer scales and positions too."""
    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": P}
    torch.manual_seed(seed)
    if kind == "siglip2":
        model = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**common, num_patches=25, vision_use_head=False))
    else:
        gated = kind.endswith("gated")
        config = transformers.DINOv3ViTConfig(
            **common, num_register_tokens=4, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu", rope_theta=30.0,
            pos_embed_shift=0.5, pos_embed_jitter=1.5, pos_embed_rescale=2.0, drop_path_rate=0.0,
        )  # fmt: skip
        model = transformers.DINOv3ViTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (0.7 if parameter.ndim == 1 else 0))
    return model.eval()


def config_of(kind: str, folder: Path | str) -> EncoderConfig:
    return EncoderConfig(kind.split()[0], width=32, num_layers=3, num_heads=2, ffn_width=48, patch_size=P, pretrained=str(folder))  # type: ignore[arg-type]


def build(config: EncoderConfig) -> PretrainedEncoder:
    """With random weights."""
    encoder = encoder_of(config).build(config, 0)
    assert isinstance(encoder, PretrainedEncoder)
    return encoder


def loaded(kind: str, folder: Path) -> PretrainedEncoder:
    encoder = build(config_of(kind, folder))
    load_encoder_weights(encoder, str(folder))
    return encoder


def images_of(sizes: Sequence[tuple[int, int, int]] = SIZES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(B, 3, H, W, generator=generator) * 2 - 1 for B, H, W in sizes]


def own_forward(model: nn.Module, kind: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patch features before and after the final norm of images of one size, through their forward, normalised as their image
    processors do it."""
    pixels = images / 2 + 0.5
    if kind == "siglip2":
        B, _, H, W = images.shape
        rows, columns = H // P, W // P
        patches = ((pixels - 0.5) / 0.5).unfold(2, P, P).unfold(3, P, P)  # B, 3, rows, columns, P, P
        patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(B, rows * columns, -1)
        mask = torch.ones(B, rows * columns, dtype=torch.long, device=images.device)
        shape = torch.tensor([[rows, columns]] * B, device=images.device)
        out = model(patches, pixel_attention_mask=mask, spatial_shapes=shape, output_hidden_states=True)
        return out.hidden_states[-1], out.last_hidden_state
    mean, std = (values.view(3, 1, 1).to(images.device) for values in IMAGENET)
    out = model((pixels - mean) / std, output_hidden_states=True)
    return out.hidden_states[-1][:, 5:], out.last_hidden_state[:, 5:]  # after the class token and four registers


def save_encoders(root: Path) -> dict[str, Path]:
    """The folder of each kind, as transformers saves it."""
    for kind in KINDS:
        theirs(kind).save_pretrained(root / kind)
    return {kind: root / kind for kind in KINDS}
