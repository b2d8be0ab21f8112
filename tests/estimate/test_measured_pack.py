"""FLOPs and memory of a pack of real data's kind against PyTorch's counter and the bytes that are alive meanwhile.

Images of several sizes, a pretrained kind of encoder, dense and expert pools, with and without activation checkpointing.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rf_repro.compute.sharding import checkpoint_activations, layers_of
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import paper
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import PackedBatch, SampleGroup, TextTokens
from rf_repro.estimate.flops import step_flops
from rf_repro.estimate.memory import pass_memory
from rf_repro.estimate.parameters import count_parameters
from rf_repro.estimate.plan import find_grid
from rf_repro.model.encoders import encoder_of
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.model.workload import Workload
from rf_repro.train.objective import Drawn, draw_pack, pack_losses
from rf_repro.worlds import world_of
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
    "stages.joint.mixture.understanding": 2,
}  # fmt: skip
DENSE = {"model.decoder.num_experts": 0, "model.decoder.num_active_experts": 0, "model.decoder.ffn_width": 288}


def make_pack(config: ExperimentConfig) -> tuple[PackedBatch, list[Tensor], tuple[int, int]]:
    """As many samples of each kind and size as the mean pack of the joint stage has; their codes; tokens of its two parts, to
    generate and to understand."""
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
    generated = sum(COPIES * (TEXT + 1 + n + p) for n, p in zip(features, pixels, strict=True))
    return batch, codes, (generated, sum(COPIES * (n + TEXT) for n in features) + COPIES * len(SIDES) // 2 * TEXT)


def make_run(changes: dict[str, Any]) -> tuple[ExperimentConfig, Workload, PackedBatch, list[Tensor]]:
    """A config whose joint stage's mean pack is the pack that comes with it."""
    base = apply_overrides(paper(), {**SMALL, **changes})
    batch, codes, (generated, understood) = make_pack(base)
    tokens = {"tokens_per_rank": generated + understood, "understanding_share": understood / (generated + understood)}
    changed = apply_overrides(base, {f"stages.joint.{name}": value for name, value in tokens.items()})
    config = find_grid("pixel_rf").variant("pixel_rf").config(changed)
    work = world_of(config).workload(config, config.stage("joint"), 128)
    assert work.samples == pytest.approx({"generation": 12, "understanding": 12, "text": 6})
    return config, work, batch, codes


def losses(config: ExperimentConfig, model: RFModel, batch: PackedBatch, codes: list[Tensor]) -> tuple[Tensor, Drawn]:
    """What to descend, and what the trainer keeps beside it."""
    generator = torch.Generator().manual_seed(1)
    space = PixelSpace(config.model.pixel.patch_size)
    drawn = draw_pack(model, space, batch, codes, config.objective, TextTokens(pad=0, bos=1, null=2), generator)
    return torch.stack(list(pack_losses(model, drawn, config.objective, generator).values())).sum(), drawn


@pytest.mark.parametrize("pools", ["dense", "experts"])
def test_flops_of_a_pack_are_those_that_pytorch_counts(pools: str) -> None:
    """Matrix products exactly, of a pack of real data's kind; attention is checked at `tiny`."""
    pytest.importorskip("transformers")
    config, work, batch, codes = make_run({"optim.precision": "fp32", **(DENSE if pools == "dense" else {})})
    costs = step_flops(config, config.stage("joint"), count_parameters(config), work)
    model, encoder = RFModel(config, config.model.decoder.vocab_size), config.model.encoder
    with FlopCounterMode(display=False) as counter:
        losses(config, model, batch, codes)
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op).split(".")[1] in ("mm", "addmm"))
    linear = sum(
        cost.forward for name, cost in costs.items() if name not in ("attention_scores", "target_encoder", "vq_assignment")
    )
    scores = 4 * encoder.width * encoder.num_layers * work.total(lambda shape: shape.encoded**2)
    registers = 2 * 3 * 16**2 * encoder.width * 12 * encoder_of(encoder).prefix_tokens(encoder)  # which are not embedded
    assert counted == pytest.approx(linear - scores - registers, rel=1e-9)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("pools", ["dense", "experts"])
def test_a_pack_needs_what_the_model_says(pools: str, checkpointing: bool, precision: str) -> None:
    """Measured: 1% to 4% too little where activations are kept; with checkpointing 1% to 12% too much, as what is kept and all
    gradients are counted together though one comes while the other goes."""
    pytest.importorskip("transformers")
    changes: dict[str, Any] = dict(DENSE if pools == "dense" else {})
    if precision == "fp32":
        changes["optim.precision"] = "fp32"
    if not checkpointing:
        changes["parallel.activation_checkpointing"] = False
    config, work, batch, codes = make_run(changes)
    parameters = count_parameters(config)
    model = RFModel(config, config.model.decoder.vocab_size).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    assert sum(p.numel() for p in model.parameters()) == parameters.total
    if checkpointing:
        checkpoint_activations(layers_of(model))
    live = LiveBytes(group.images for group in (*batch.generation, *batch.understanding))
    with live:
        total, _drawn = losses(config, model, batch, codes)
        total.backward()
    phases = pass_memory(config, config.stage("joint"), parameters, work).phases
    extra = of_explicit_attention(config, work, 2 if precision == "bf16" else 4)
    blocks = {"forward": 0 if checkpointing else config.model.decoder.num_layers, "backward": 1}
    expected = max(sum(phases[name].values()) + count * extra for name, count in blocks.items())
    assert 0.95 < expected / live.peak < (1.15 if checkpointing else 1.02)


def of_explicit_attention(config: ExperimentConfig, work: Workload, b: int) -> float:
    """What a block keeps on the CPU, which attends to short samples without the fused kernel: probabilities, but neither that
    kernel's output nor its sums."""
    decoder = config.model.decoder
    fused = work.num_tokens * decoder.num_heads * (b * decoder.head_dim + 4)
    return b * decoder.num_heads * work.total(lambda shape: shape.layout.length**2) - fused
