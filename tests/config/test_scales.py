"""`paper` holds the published numbers; the others are the same experiment, smaller."""

from math import prod

import pytest
import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale, paper, small, smoke, tiny
from rf_repro.core.errors import UserError
from rf_repro.model.rf_model import RFModel


def test_paper_training() -> None:
    """App. A and its table of stages."""
    config = paper()
    assert [(s.name, s.trains, s.steps, s.learning_rate) for s in config.stages] == [
        ("alignment", "connector", 10_000, 5e-5),
        ("joint", "all", 50_000, 5e-5),
        ("continued", "all", 20_000, 2.5e-5),
    ]
    assert [s.max_image_size for s in config.stages[1:]] == [256, 1024]
    assert {s.tokens_per_rank for s in config.stages} == {32_768}
    assert {s.optimizer for s in config.stages} == {"adamw"}
    assert all(s.warmup_steps > 0 and s.decay_fraction == 0 for s in config.stages)  # linear warm-up, then constant
    optim = config.optim
    assert (optim.betas, optim.eps, optim.weight_decay, optim.grad_clip) == ((0.9, 0.95), 1e-8, 0.1, 1.0)
    assert (optim.generation_lr_multiplier, optim.ema_decay) == (4.0, 0.9999)
    assert {s.encoder_lr_multiplier for s in config.stages} == {1.0}


def test_paper_representation_objective_and_sampling() -> None:
    config = paper()
    vq = config.representation
    assert (vq.codebook_size, vq.momentum, vq.temperature, vq.sinkhorn_iterations) == (16_384, 0.9999, 0.5, 1)  # Sec. 3.1
    assert (vq.center, vq.warmup_batches) == (False, 0)
    loss = config.objective
    assert (loss.flow_weight, loss.representation_weight) == (1.0, 1.0)  # Eq. 3
    assert {s.text_weight for s in config.stages} == {1.0}
    assert (loss.text_drop, loss.representation_drop) == (0.1, 0.1)
    assert (loss.time_mean, loss.time_std, loss.min_one_minus_t) == (-0.8, 0.8, 0.05)  # JiT
    sampling = config.sampling
    assert (sampling.steps, sampling.cfg_representation, sampling.cfg_pixel) == (25, 2.0, 3.0)


def test_paper_model() -> None:
    """Qwen3-30B-A3B and DINOv3 ViT-H+/16 (Sec. 4.1)."""
    config = paper()
    decoder = config.model.decoder
    assert (decoder.num_layers, decoder.width, decoder.vocab_size) == (48, 2048, 151_936)
    assert (decoder.num_heads, decoder.num_kv_heads, decoder.head_dim) == (32, 4, 128)
    assert (decoder.num_experts, decoder.num_active_experts, decoder.ffn_width) == (128, 8, 768)
    assert not decoder.distance_bias
    assert (config.model.encoder.kind, config.model.encoder.patch_size) == ("dinov3", 16)
    assert config.model.pixel.patch_size == 16
    assert (config.model.encoder.width, config.model.encoder.num_layers, config.model.encoder.num_heads) == (1280, 32, 20)


def test_small_is_a_100m_class_model_with_one_representation_token_over_four_patches() -> None:
    config = apply_overrides(small(), {"representation.kind": "discrete"})
    with torch.device("meta"):
        model = RFModel(config, vocab_size=100)
    assert 80e6 < sum(parameter.numel() for parameter in model.parameters()) < 200e6
    assert model.representation is not None
    assert model.pixels is not None
    assert 4 * prod(model.representation.grid) == prod(model.pixels.grid) == 256


def test_small_scales_share_the_papers_objective() -> None:
    for config in (tiny(), smoke(), small()):
        assert (config.objective.text_drop, config.objective.representation_drop) == (0.1, 0.1)
        assert config.representation.temperature == paper().representation.temperature
        assert config.optim.grad_clip == 1.0
        assert config.data.world == "scenes"
    assert smoke().scale == "smoke"


def test_unknown_scale() -> None:
    with pytest.raises(UserError, match="scale 'huge': unknown; choose one of smoke, tiny, small, base, paper"):
        get_scale("huge")
