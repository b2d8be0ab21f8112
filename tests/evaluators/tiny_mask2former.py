"""Mask2Former Swin of the real structure and tiny widths, with random weights, as mmdet builds and stores it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluators.detection import Detections

WIDTH = 32  # of the heads; the real one has 256
DEPTHS = (2, 1, 2, 1)  # two blocks at least somewhere: every second one shifts its windows


def tiny_config(folder: Path) -> Path:
    """mmdet's own Swin-S config, narrowed; written where `load` can read it."""
    import mmdet
    from mmengine.config import Config

    from evaluators.detectors.mmdet import CONFIG

    config = Config.fromfile(Path(mmdet.__file__).parent / CONFIG)
    config.model.backbone.update(embed_dims=8, depths=list(DEPTHS), num_heads=[1, 2, 4, 8], init_cfg=None)
    head = config.model.panoptic_head
    head.update(in_channels=[8, 16, 32, 64], feat_channels=WIDTH, out_channels=WIDTH, num_queries=20)
    layer = head.pixel_decoder.encoder.layer_cfg
    head.pixel_decoder.encoder.num_layers = 2
    layer.self_attn_cfg.embed_dims = layer.ffn_cfg.embed_dims = WIDTH
    layer.ffn_cfg.feedforward_channels = 48
    head.pixel_decoder.positional_encoding.num_feats = head.positional_encoding.num_feats = WIDTH // 2
    layer = head.transformer_decoder.layer_cfg
    head.transformer_decoder.num_layers = 4
    layer.self_attn_cfg.embed_dims = layer.cross_attn_cfg.embed_dims = layer.ffn_cfg.embed_dims = WIDTH
    layer.ffn_cfg.feedforward_channels = 80
    path = folder / "tiny.py"
    config.dump(path)
    return path


def randomize(model: Any, seed: int) -> dict[str, torch.Tensor]:
    """Random numbers for every weight, norms and biases included, so that a misplaced one shows. Returns the state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.3 * noise)
        for embedding in (model.panoptic_head.query_feat, model.panoptic_head.query_embed):
            embedding.weight.mul_(10)  # queries that differ, hence masks and classes that do
        model.panoptic_head.cls_embed.weight.mul_(4)
        model.panoptic_head.pixel_decoder.mask_feature.bias[0] = 2.0  # times the next: shifts mask logits down, so that
        model.panoptic_head.mask_embed[4].bias[0] = -1.0  # objects are smaller than the image
    return {name: value.clone() for name, value in model.state_dict().items()}


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """A picture with structure at all scales."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for size in (3, 8, 30):
        noise = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), dtype=float) / 3
    return Image.fromarray(total.round().astype(np.uint8))


def agreement(one: dict[str, Detections], other: dict[str, Detections], score: float, pixels: float) -> float:
    """Share of the one's objects that the other found too: same class, score and mask within these tolerances.

    Objects with nearly the same score come in any order, so each is looked for among all of its class.

    Args:
        score: absolute.
        pixels: share of the image on which masks may differ; no side of the box may differ by more than 1 pixel where this
            is below 1e-3.
    """
    agreed = []
    for name, objects in one.items():
        others = other.get(name)
        for i in range(len(objects)):
            if others is None:
                agreed.append(False)
                continue
            same = np.abs(others.scores - objects.scores[i]) <= score
            same &= (others.masks != objects.masks[i]).mean((1, 2)) <= pixels  # type: ignore[index, union-attr]
            if pixels < 1e-3:
                same &= np.abs(others.boxes - objects.boxes[i]).max(1) <= 1
            agreed.append(bool(same.any()))
    return float(np.mean(agreed))
