"""The memory model against the bytes that are alive while a pack of real data's kind is trained on: images of several sizes, a
pretrained kind of encoder, dense and expert pools, with and without activation checkpointing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import paper
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import PackedBatch, SampleGroup, TextTokens
from rf_repro.estimate.memory import pass_memory
from rf_repro.estimate.parameters import count_parameters
from rf_repro.estimate.plan import find_variant
from rf_repro.estimate.workload import Workload, make_workload
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.train.objective import draw_pack, pack_losses
from rf_repro.train.sharding import checkpoint_activations, layers_of
from tests.estimate.live_bytes import LiveBytes

SIDES, TEXT, COPIES = (64, 96, 128), 48, 4
SMALL = {
    "model.decoder.width": 96, "model.decoder.num_layers": 4, "model.decoder.num_heads": 6, "model.decoder.num_kv_heads": 2,
    "model.decoder.head_dim": 16, "model.decoder.ffn_width": 96, "model.decoder.num_experts": 8,
    "model.decoder.num_active_experts": 3, "model.decoder.vocab_size": 1009, "model.encoder.width": 64,
    "model.encoder.num_layers": 3, "model.encoder.num_heads": 4, "model.encoder.ffn_width": 128, "data.caption_tokens": TEXT,
    "data.answer_tokens": TEXT, "representation.codebook_size": 256, "stages.joint.min_image_size": SIDES[0],
    "stages.joint.max_image_size": SIDES[-1], "stages.continued.min_image_size": 96, "stages.continued.max_image_size": 128,
    "stages.alignment.max_image_size": 128, "parallel.sharding": "none",
    "stages.joint.mixture.generation": 2, "stages.joint.mixture.understanding": 2,
}  # fmt: skip
DENSE = {"model.decoder.num_experts": 0, "model.decoder.num_active_experts": 0, "model.decoder.ffn_width": 288}


def make_pack(config: ExperimentConfig) -> tuple[PackedBatch, list[Tensor], int]:
    """As many samples of each kind and size as the mean pack of the joint stage has; their codes; the tokens of the pack."""
    generator = torch.Generator().manual_seed(0)

    def group(side: int | None, count: int) -> SampleGroup:
        images = None if side is None else torch.rand(count, 3, side, side, generator=generator) * 2 - 1
        return SampleGroup(images, torch.randint(3, 1009, (count, TEXT), generator=generator))

    batch = PackedBatch(
        generation=tuple(group(side, COPIES) for side in SIDES),
        understanding=(*(group(side, COPIES) for side in SIDES), group(None, COPIES * len(SIDES) // 2)),
    )
    features = [(side // 32) ** 2 for side in SIDES]
    codes = [torch.randint(256, (COPIES, count), generator=generator) for count in features]
    pixels = [(side // config.model.pixel.patch_size) ** 2 for side in SIDES]
    tokens = sum(COPIES * (TEXT + 1 + n + p + n + TEXT) for n, p in zip(features, pixels, strict=True))
    return batch, codes, tokens + COPIES * len(SIDES) // 2 * TEXT


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("pools", ["dense", "experts"])
def test_a_pack_needs_what_the_model_says(pools: str, checkpointing: bool, precision: str) -> None:
    """Measured: 1% to 4% too little where activations are kept; with checkpointing 2% to 12% too much, as what is kept and all
    gradients are counted together though one comes while the other goes."""
    pytest.importorskip("transformers")
    changes: dict[str, Any] = {**SMALL, **(DENSE if pools == "dense" else {})}
    if precision == "fp32":
        changes["optim.precision"] = "fp32"
    if not checkpointing:
        changes["parallel.activation_checkpointing"] = False
    base = apply_overrides(paper(), changes)
    batch, codes, tokens = make_pack(base)
    config = find_variant("pixel_rf").config(apply_overrides(base, {"stages.joint.tokens_per_rank": tokens}))
    stage, parameters = config.stage("joint"), count_parameters(config)
    work = make_workload(config, stage, 128)
    assert work.samples == pytest.approx({"generation": 12, "understanding": 12, "text": 6})

    model = RFModel(config, config.model.decoder.vocab_size).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    assert sum(p.numel() for p in model.parameters()) == parameters.total
    if checkpointing:
        checkpoint_activations(layers_of(model))
    generator = torch.Generator().manual_seed(1)
    live = LiveBytes(group.images for group in (*batch.generation, *batch.understanding))
    with live:
        tokens_of = TextTokens(pad=0, bos=1, null=2)
        space = PixelSpace(config.model.pixel.patch_size)
        drawn = draw_pack(model, space, batch, codes, config.objective, tokens_of, generator)
        losses = pack_losses(model, drawn, config.objective, generator)
        torch.stack(list(losses.values())).sum().backward()
    phases = pass_memory(config, stage, parameters, work).phases
    extra = of_explicit_attention(config, work, 2 if precision == "bf16" else 4)
    blocks = {"forward": 0 if checkpointing else config.model.decoder.num_layers, "backward": 1}
    expected = max(sum(phases[name].values()) + count * extra for name, count in blocks.items())
    assert 0.95 < expected / live.peak < (1.13 if checkpointing else 1.0)


def of_explicit_attention(config: ExperimentConfig, work: Workload, b: int) -> float:
    """What a block keeps on the CPU, which attends to short samples without the fused kernel: probabilities, but neither that
    kernel's output nor its sums."""
    decoder = config.model.decoder
    fused = work.num_tokens * decoder.num_heads * (b * decoder.head_dim + 4)
    return b * decoder.num_heads * work.total(lambda shape: shape.layout.length**2) - fused
