"""The memory model against tensors that are alive while the trainer trains, and against what autograd keeps of a block."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablations.registry import GRIDS
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import paper, tiny
from rf_repro.config.schema import ExperimentConfig
from rf_repro.estimate.memory import CONTEXT_BYTES, Memory, _decoder, _encoder, _logits, pass_memory, stage_memory
from rf_repro.estimate.parameters import count_parameters
from rf_repro.estimate.workload import make_workload
from rf_repro.model import attention
from rf_repro.model.layout import POOLS, Group, PackedLayout
from rf_repro.model.mot import MixtureOfTransformers
from rf_repro.train.trainer import Trainer
from tests.estimate.live_bytes import LiveBytes
from tests.estimate.test_flops import make_trainer
from tests.model.small import small_config

CASES = [
    ("table3a", "pixel"), ("table3a", "pixel_rf"), ("table3a", "vae_rf"), ("table3b", "repa"), ("table3c", "continuous"),
    ("table2", "vlm_only"),
]  # fmt: skip


def memory(config: ExperimentConfig, ranks: int = 1, stage: int = -1) -> Memory:
    """Of the mean pass."""
    chosen = config.stages[stage]
    return pass_memory(config, chosen, count_parameters(config), make_workload(config, chosen, ranks))


def held(trainer: Trainer) -> list[Tensor]:
    """Everything that stays from step to step, storages that are shared included."""
    tensors = [*trainer.model.parameters(), *trainer.masters().values(), *trainer.average.values.values()]
    for optimizer in trainer.optimizer.optimizers:
        tensors += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    if trainer.target_encoder is not None:
        tensors += [*trainer.target_encoder.parameters(), *trainer.target_average.values.values()]
    if trainer.vq is not None:
        tensors += [trainer.vq.prototypes]
    vae = getattr(trainer.space, "vae", None)
    return tensors + ([] if vae is None else list(vae.parameters()))


@pytest.mark.parametrize(("table", "key"), CASES)
def test_a_step_at_tiny_needs_what_the_model_says(table: str, key: str) -> None:
    """States to 0.1%; the step's peak within 5% (docs/estimate.md says by how much each variant is off)."""
    base = apply_overrides(tiny(), {"data.scenes.num_train": 512})
    config = GRIDS[table].variant(key).config(base)
    trainer = make_trainer(config)
    if trainer.statistics is not None:
        trainer.statistics.initialise(torch.randn(64, config.model.encoder.width))
    trainer.train_step()  # which makes the optimiser's moments
    gc.collect()
    live = LiveBytes(held(trainer))
    estimated = memory(config)
    states = sum(estimated.states.values()) - CONTEXT_BYTES
    assert live.live == pytest.approx(states, rel=1e-3)
    with live:
        (losses,) = trainer.losses(2)
        losses.total.backward()
        del losses
        assert live.peak == pytest.approx(estimated.peak - CONTEXT_BYTES, rel=0.05)
        assert estimated.peak_phase == "forward"
        after = live.live
        live.peak = after
        trainer.optimizer.step(2)
    gradients = 2 * sum(p.numel() for p in trainer.model.parameters())
    assert after - states == pytest.approx(gradients, rel=0.12)  # and what the step has computed for its log
    step = sum(estimated.phases["optimizer step"].values())
    assert live.peak - states == pytest.approx(step, rel=0.15)


def test_the_peak_of_a_large_codebook_is_its_scores() -> None:
    config = small_config(representation__codebook_size=8192, stages__joint__mixture__generation=16)
    trainer = make_trainer(config)
    assert trainer.vq is not None
    features = torch.randn(16 * 16, config.model.encoder.width)
    live = LiveBytes([])
    with live:
        trainer.vq.assign(features)
    assert live.peak == pytest.approx(memory(config).phases["targets"]["vq_scores"], rel=0.05)


def test_the_loss_of_a_large_vocabulary() -> None:
    """From bf16 logits through cross-entropy and back."""
    config = apply_overrides(paper(), {"model.decoder.width": 64, "model.decoder.vocab_size": 9973, "data.answer_tokens": 32,
                                       "stages.alignment.tokens_per_rank": 512})  # fmt: skip
    config = replace(config, model=replace(config.model, pixel=replace(config.model.pixel, space="none")))
    work = make_workload(config, config.stages[0], 1)
    tokens = round(work.tokens("text"))
    hidden = torch.randn(tokens, 64, dtype=torch.bfloat16, requires_grad=True)
    head = nn.Linear(64, 9973, bias=False).to(torch.bfloat16)
    live = LiveBytes([])
    with live:
        from rf_repro.train.objective import cross_entropy_terms

        total, _ = cross_entropy_terms(head(hidden), torch.randint(9973, (tokens,)))
        total.backward()
    head_gradient = 2 * 2 * head.weight.numel()
    assert live.peak == pytest.approx(_logits(config, count_parameters(config), work), rel=0.05, abs=head_gradient)


def kept_by_autograd(function: Callable[[], Any], module: nn.Module) -> int:
    """Bytes of the distinct storages that are saved for the backward pass, without the module's parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()  # noqa: F841 (the graph must live until all is counted)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"model__decoder__time_conditioning": "additive"},
        {"representation__kind": "none"},
        {"model__decoder__num_experts": 6, "model__decoder__num_active_experts": 2},
    ],
    ids=["adaln", "additive", "no_representation", "experts"],
)
def test_blocks_keep_what_the_model_says(case: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fused attention kernels that a GPU uses. Experts keep indices besides: within 8%; dense pools within 2%."""
    monkeypatch.setattr(attention, "MAX_EXPLICIT_TOKENS", 0)
    config = small_config(
        model__decoder__width=64, model__decoder__head_dim=16, model__decoder__ffn_width=160, data__caption_tokens=40,
        stages__joint__mixture__generation=8, **case, **({} if precision == "fp32" else {"optim__precision": precision}),
    )  # fmt: skip
    work, parameters = make_workload(config, config.stages[0], 1), count_parameters(config)
    dtype, b = (torch.float32, 4) if precision == "fp32" else (torch.bfloat16, 2)
    pools = [pool for pool in POOLS if f"pool_{pool}" in parameters.parts]
    decoder = MixtureOfTransformers(config.model.decoder, pools).to(dtype)
    packed = PackedLayout(tuple(Group(work.shapes[kind].layout, int(count)) for kind, count in work.samples.items()))
    x_TD = torch.randn(packed.num_tokens, 64, dtype=dtype, requires_grad=True)
    time_BD = torch.randn(8, 64, dtype=dtype, requires_grad=True)
    kept = kept_by_autograd(lambda: decoder(x_TD, packed, time_BD), decoder)
    estimated = config.model.decoder.num_layers * _decoder(config, parameters, work, b).kept
    assert estimated == pytest.approx(kept, rel=0.08 if config.model.decoder.num_experts else 0.02)


@pytest.mark.parametrize("gated", [True, False])
def test_dinov3_keeps_what_the_model_says(gated: bool, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(f'{{"use_gated_mlp": {str(gated).lower()}}}')
    sizes = {"model.encoder.width": 96, "model.encoder.num_layers": 3, "model.encoder.num_heads": 4}
    config = apply_overrides(paper(), {**sizes, "model.encoder.ffn_width": 256, "model.encoder.pretrained": str(tmp_path),
                                       "stages.alignment.max_image_size": 128, "stages.alignment.tokens_per_rank": 3 * 528})  # fmt: skip
    work = make_workload(config, config.stages[0], 1)
    images = round(work.samples["understanding"])
    model = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, patch_size=16,
            use_gated_mlp=gated, num_register_tokens=4,
        )
    ).train()  # fmt: skip
    kept = kept_by_autograd(lambda: model(torch.randn(images, 3, 128, 128)), model)
    assert 3 * _encoder(config, work, 4).kept == pytest.approx(kept, rel=0.06)


def test_what_sharding_divides_and_what_it_does_not() -> None:
    config = GRIDS["table3a"].variant("vae_rf").config(paper())
    one, many = memory(config, 64, 1, True, stage=1), memory(config, 64, 64, True, stage=1)
    whole = {"codebook", "vae", "context"}
    for name, size in one.states.items():
        assert many.states[name] == pytest.approx(size if name in whole else size / 64, rel=1e-6), name
    total = count_parameters(config).total
    assert one.states["master_weights"] == 4 * total
    assert one.states["optimizer_moments"] == 8 * total
    assert "gathered_weights" not in one.phases["forward"]
    block = 3 * (128 * 3 * 2048 * 768 + 128 * 2048) + 2048 * (32 + 2 * 4) * 128 + 32 * 128 * 2048
    outside = many.phases["forward"]["gathered_weights"] / 2 - 2 * block
    assert 0 < outside < 0.8e9  # embeddings, heads, connector, norms


def test_a_frozen_model_has_no_moments_and_no_gradients() -> None:
    config = GRIDS["table2"].variant("vlm_only").config(paper())
    connector = count_parameters(config).parts["connector"].total
    states = memory(config, stage=0).states
    assert states["optimizer_moments"] == 8 * connector
    assert states["master_weights"] == 4 * count_parameters(config).total  # frozen ones are kept in float32 too
    assert memory(config, stage=0).phases["backward"]["gradients"] == 2 * connector


def test_checkpointing_keeps_inputs_and_one_block() -> None:
    config = GRIDS["table3a"].variant("pixel_rf").config(paper())
    kept, inputs = memory(config, 8, 8, False, stage=1), memory(config, 8, 8, True, stage=1)
    assert inputs.phases["forward"]["decoder_activations"] == 48 * 32_768 * 2048 * 2
    assert inputs.phases["backward"]["working_block"] == pytest.approx(
        kept.phases["forward"]["decoder_activations"] / 48, rel=1e-6
    )
    assert inputs.states == kept.states
    assert inputs.peak < kept.peak
