"""Converts OpenMMLab's Mask2Former Swin checkpoint into a folder that `transformers` loads.

    python -m evaluators.detectors.openmmlab mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth FOLDER

The networks are the same; names, two fused projections and one order of channels differ. All sizes are read off the weights,
save two that no shape tells: four sampling points, and as many heads in the decoder as in the pixel decoder.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.detectors.checkpoint import read_checkpoint
from evaluators.detectors.coco import COCO_NAMES
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, write_json
from rf_repro.core.shown import say

SOURCE = "converted_from_sha256"  # in config.json: the checkpoint's hash
_LEVELS, _POINTS = 3, 4  # of deformable attention; `transformers` has no other
_NO_OBJECT_WEIGHT = 0.1  # of the loss; no result depends on it, but the layout has a place for it
_SWIN, _PIXELS, _QUERIES = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder", "model.transformer_module"
_INDEX_TABLE = ".relative_position_index"  # a function of the window size, which every library computes itself


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Mask2Former Swin, in the words of `transformers`."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: float
    feature_size: int
    mask_feature_size: int
    encoder_layers: int
    encoder_feedforward_dim: int
    decoder_layers: int
    dim_feedforward: int
    num_attention_heads: int
    num_queries: int
    num_labels: int

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> "Architecture":
        """Read off the weights' shapes. Raises KeyError where one is missing."""
        depths = tuple(_count(state, f"backbone.stages.{stage}.blocks") for stage in range(_count(state, "backbone.stages")))
        tables = [
            state[f"backbone.stages.{stage}.blocks.0.attn.w_msa.relative_position_bias_table"] for stage in range(len(depths))
        ]
        embed_dim = state["backbone.patch_embed.projection.weight"].shape[0]
        head, pixels, decoder = "panoptic_head", "panoptic_head.pixel_decoder", "panoptic_head.transformer_decoder"
        return cls(
            embed_dim=embed_dim,
            depths=depths,
            num_heads=tuple(table.shape[1] for table in tables),
            window_size=(round(tables[0].shape[0] ** 0.5) + 1) // 2,  # the table has a row for each of (2w - 1)^2 offsets
            mlp_ratio=state["backbone.stages.0.blocks.0.ffn.layers.0.0.weight"].shape[0] / embed_dim,
            feature_size=state[f"{head}.query_feat.weight"].shape[1],
            mask_feature_size=state[f"{pixels}.mask_feature.weight"].shape[0],
            encoder_layers=_count(state, f"{pixels}.encoder.layers"),
            encoder_feedforward_dim=state[f"{pixels}.encoder.layers.0.ffn.layers.0.0.weight"].shape[0],
            decoder_layers=_count(state, f"{decoder}.layers"),
            dim_feedforward=state[f"{decoder}.layers.0.ffn.layers.0.0.weight"].shape[0],
            num_attention_heads=state[f"{pixels}.encoder.layers.0.self_attn.attention_weights.weight"].shape[0]
            // (_LEVELS * _POINTS),
            num_queries=state[f"{head}.query_feat.weight"].shape[0],
            num_labels=state[f"{head}.cls_embed.weight"].shape[0] - 1,
        )

    def config(self) -> Any:
        """The `Mask2FormerConfig`."""
        from transformers import Mask2FormerConfig, SwinConfig

        stages = [f"stage{number}" for number in range(1, len(self.depths) + 1)]
        swin = SwinConfig(  # type: ignore[call-arg]  # `out_features` is taken by its base
            embed_dim=self.embed_dim,
            depths=list(self.depths),
            num_heads=list(self.num_heads),
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
            out_features=stages,
        )
        return Mask2FormerConfig(
            architectures=["Mask2FormerForUniversalSegmentation"],
            backbone_config=swin,
            feature_size=self.feature_size,
            mask_feature_size=self.mask_feature_size,
            hidden_dim=self.feature_size,
            encoder_layers=self.encoder_layers,
            encoder_feedforward_dim=self.encoder_feedforward_dim,
            decoder_layers=self.decoder_layers + 1,  # counts the prediction before the first layer
            dim_feedforward=self.dim_feedforward,
            num_attention_heads=self.num_attention_heads,
            num_queries=self.num_queries,
            no_object_weight=_NO_OBJECT_WEIGHT,
            id2label=dict(enumerate(COCO_NAMES)),
            label2id={name: index for index, name in enumerate(COCO_NAMES)},
        )


def convert(state: dict[str, Tensor], where: str) -> tuple[Any, dict[str, Tensor]]:
    """(config, weights under the names of `transformers`) from weights under the names of mmdet 3.

    Every weight is used once.

    Raises:
        UserError: weights of another network; `where` begins the line.
    """
    try:
        architecture = Architecture.of(state)
    except KeyError as error:
        raise UserError(f"{where}: has no {error.args[0]}: must be a Mask2Former with a Swin backbone") from None
    if architecture.num_labels != len(COCO_NAMES):
        raise UserError(f"{where}: {architecture.num_labels} classes, must be COCO's 80 (instance segmentation, not panoptic)")
    names = dict(_names(architecture))
    unknown = sorted(name for name in state.keys() - names.keys() if not name.endswith(_INDEX_TABLE))
    absent = sorted(names.keys() - state.keys())
    if unknown or absent:
        raise UserError(
            f"{where}: lacks {len(absent)} weights {absent[:2]} and has {len(unknown)} foreign ones {unknown[:2]}: "
            "must be a Mask2Former with a Swin backbone, as OpenMMLab publishes it"
        )
    converted: dict[str, Tensor] = {}
    for name, targets in names.items():
        weight = _blockwise(state[name]) if ".downsample." in name else state[name]
        for target, part in zip(targets, weight.chunk(len(targets)), strict=True):
            converted[target] = part.contiguous()
    loss_weights = state["panoptic_head.cls_embed.bias"].new_ones(architecture.num_labels + 1)
    loss_weights[-1] = _NO_OBJECT_WEIGHT
    return architecture.config(), {**converted, "criterion.empty_weight": loss_weights}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """How many members, numbered from 0, a list of modules has."""
    return len({name.removeprefix(f"{prefix}.").split(".")[0] for name in state if name.startswith(f"{prefix}.")})


def _blockwise(weight: Tensor) -> Tensor:
    """Patch merging's input channels [..., 4 C] in the order of `transformers`.

    mmdet unfolds 2 x 2 patches: all four pixels of the first channel, row by row, then those of the second. `transformers`
    has all channels of one pixel, then of the next, column by column.
    """
    by_pixel = weight.unflatten(-1, (-1, 2, 2))  # [..., C, row, column]
    return by_pixel.movedim(-3, -1).transpose(-3, -2).flatten(-3)  # [..., column, row, C]


def _names(architecture: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each weight's name in mmdet 3 with its names in `transformers`: several where a fused projection is taken apart."""
    for old, *new in _modules(architecture):
        for kind in _kinds(old):
            yield f"{old}.{kind}", tuple(f"{name}.{kind}" for name in new)
    for old, new_name in _tensors(architecture):
        yield old, (new_name,)
    for layer in range(architecture.decoder_layers):
        old, new_name = f"panoptic_head.transformer_decoder.layers.{layer}", f"{_QUERIES}.decoder.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = tuple(f"{new_name}.self_attn.{part}_proj.{kind}" for part in "qkv")
            yield f"{old}.self_attn.attn.in_proj_{kind}", parts
            yield f"{old}.cross_attn.attn.in_proj_{kind}", (f"{new_name}.cross_attn.in_proj_{kind}",)


def _kinds(module: str) -> tuple[str, ...]:
    """Which tensors a module has. A convolution before a normalisation has no bias, nor has the merging of patches."""
    is_table = module.endswith(("query_embed", "query_feat", "level_embed"))
    unbiased = "lateral_convs.0.conv" in module or "output_convs.0.conv" in module or module.endswith("downsample.reduction")
    return ("weight",) if is_table or unbiased else ("weight", "bias")


def _modules(architecture: Architecture) -> Iterator[tuple[str, ...]]:
    yield from _swin_modules(architecture)
    yield from _pixel_decoder_modules(architecture)
    yield from _decoder_modules(architecture)


def _swin_modules(architecture: Architecture) -> Iterator[tuple[str, ...]]:
    yield "backbone.patch_embed.projection", f"{_SWIN}.embeddings.patch_embeddings.projection"
    yield "backbone.patch_embed.norm", f"{_SWIN}.embeddings.norm"
    for stage, depth in enumerate(architecture.depths):
        yield f"backbone.norm{stage}", f"{_SWIN}.hidden_states_norms.stage{stage + 1}"
        for block in range(depth):
            old, new = f"backbone.stages.{stage}.blocks.{block}", f"{_SWIN}.encoder.layers.{stage}.blocks.{block}"
            yield f"{old}.norm1", f"{new}.layernorm_before"
            yield (f"{old}.attn.w_msa.qkv", *(f"{new}.attention.self.{part}" for part in ("query", "key", "value")))
            yield f"{old}.attn.w_msa.proj", f"{new}.attention.output.dense"
            yield f"{old}.norm2", f"{new}.layernorm_after"
            yield f"{old}.ffn.layers.0.0", f"{new}.intermediate.dense"
            yield f"{old}.ffn.layers.1", f"{new}.output.dense"
        if stage + 1 < len(architecture.depths):
            for part in ("norm", "reduction"):
                yield f"backbone.stages.{stage}.downsample.{part}", f"{_SWIN}.encoder.layers.{stage}.downsample.{part}"


def _pixel_decoder_modules(architecture: Architecture) -> Iterator[tuple[str, ...]]:
    pixels = "panoptic_head.pixel_decoder"
    yield f"{pixels}.mask_feature", f"{_PIXELS}.mask_projection"
    for level in range(_LEVELS):
        yield f"{pixels}.input_convs.{level}.conv", f"{_PIXELS}.input_projections.{level}.0"
        yield f"{pixels}.input_convs.{level}.gn", f"{_PIXELS}.input_projections.{level}.1"
    for old, new in (("lateral_convs.0", "adapter_1"), ("output_convs.0", "layer_1")):
        yield f"{pixels}.{old}.conv", f"{_PIXELS}.{new}.0"
        yield f"{pixels}.{old}.gn", f"{_PIXELS}.{new}.1"
    for layer in range(architecture.encoder_layers):
        old, new = f"{pixels}.encoder.layers.{layer}", f"{_PIXELS}.encoder.layers.{layer}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            yield f"{old}.self_attn.{part}", f"{new}.self_attn.{part}"
        yield f"{old}.norms.0", f"{new}.self_attn_layer_norm"
        yield f"{old}.ffn.layers.0.0", f"{new}.fc1"
        yield f"{old}.ffn.layers.1", f"{new}.fc2"
        yield f"{old}.norms.1", f"{new}.final_layer_norm"


def _decoder_modules(architecture: Architecture) -> Iterator[tuple[str, ...]]:
    yield "panoptic_head.query_embed", f"{_QUERIES}.queries_embedder"
    yield "panoptic_head.query_feat", f"{_QUERIES}.queries_features"
    yield "panoptic_head.level_embed", f"{_QUERIES}.level_embed"
    yield "panoptic_head.cls_embed", "class_predictor"
    yield "panoptic_head.transformer_decoder.post_norm", f"{_QUERIES}.decoder.layernorm"
    for number in range(3):
        yield f"panoptic_head.mask_embed.{2 * number}", f"{_QUERIES}.decoder.mask_predictor.mask_embedder.{number}.0"
    for layer in range(architecture.decoder_layers):
        old, new = f"panoptic_head.transformer_decoder.layers.{layer}", f"{_QUERIES}.decoder.layers.{layer}"
        yield f"{old}.cross_attn.attn.out_proj", f"{new}.cross_attn.out_proj"
        yield f"{old}.norms.0", f"{new}.cross_attn_layer_norm"
        yield f"{old}.self_attn.attn.out_proj", f"{new}.self_attn.out_proj"
        yield f"{old}.norms.1", f"{new}.self_attn_layer_norm"
        yield f"{old}.ffn.layers.0.0", f"{new}.fc1"
        yield f"{old}.ffn.layers.1", f"{new}.fc2"
        yield f"{old}.norms.2", f"{new}.final_layer_norm"


def _tensors(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Weights that are no module's `weight` or `bias` on the one side or the other."""
    yield "panoptic_head.pixel_decoder.level_encoding.weight", f"{_PIXELS}.level_embed"
    for stage, depth in enumerate(architecture.depths):
        for block in range(depth):
            table = "relative_position_bias_table"
            old = f"backbone.stages.{stage}.blocks.{block}.attn.w_msa.{table}"
            yield old, f"{_SWIN}.encoder.layers.{stage}.blocks.{block}.attention.self.{table}"


def convert_file(checkpoint: Path, folder: Path) -> None:
    """Writes `folder`/config.json and `folder`/model.safetensors, to the same bytes each time.

    Raises:
        UserError: the checkpoint cannot be read or is of another network, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    state, sha256 = read_checkpoint(checkpoint)
    config, weights = convert(state, str(checkpoint))
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", {**config.to_dict(), SOURCE: sha256})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluators.detectors.openmmlab",
        description="Converts OpenMMLab's Mask2Former Swin checkpoint into a folder for --detector transformers.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the .pth file, of mmdet 2 or 3")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write config.json and model.safetensors")
    options = parser.parse_args(arguments)
    try:
        convert_file(options.checkpoint, options.folder)
    except UserError as error:
        say(f"error: {error}", file=sys.stderr)
        return 2
    say(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
