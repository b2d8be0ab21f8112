"""Counts of parameters against records of trained runs, published sizes, and the classes of transformers and diffusers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ablations.registry import GRIDS
from rf_repro.config.model_schema import EncoderConfig
from rf_repro.config.overrides import apply_overrides, from_dict
from rf_repro.config.scales import get_scale, paper, tiny
from rf_repro.config.schema import ExperimentConfig
from rf_repro.estimate.parameters import Parameters, count_parameters, part_of
from rf_repro.estimate.plan import find_grid
from rf_repro.model.encoders import encoder_of
from rf_repro.model.encoders.dinov3 import REGISTERS, is_gated
from rf_repro.model.layout import POOLS
from rf_repro.model.rf_model import RFModel
from rf_repro.model.spaces.vae import WAN_PARAMETERS, wan_encode_flops

RESULTS = Path(__file__).parents[2] / "reports" / "results"
RECORDS = sorted(path for path in RESULTS.glob("tiny/*/*/run.json") if path.parts[-3] not in ("stage-encoder", "stage-vae"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parts[-3]}/{path.parts[-2]}")
def test_the_total_is_what_the_run_recorded(path: Path) -> None:
    recorded = json.loads(path.read_text())["parameters"]
    counted = count_parameters(from_dict(json.loads((path.parent / "config.json").read_text())))
    assert counted.total == recorded["total"]
    assert counted.parts["encoder"].total == recorded["encoder"]
    assert counted.parts["text_head"].total == recorded["text_head"]


def test_there_are_records_to_compare_with() -> None:
    assert len({path.parts[-3] for path in RECORDS}) >= 10


def language_model(**overrides: Any) -> Parameters:
    """VLM-only at `paper` with another decoder: one pool, beside an encoder."""
    base = GRIDS["table2"].variant("vlm_only").config(paper())
    return count_parameters(apply_overrides(base, {f"model.decoder.{name}": value for name, value in overrides.items()}))


TEXT_PARTS = ("text_embedding", "attention", "pool_understanding", "norms", "text_head")


def test_one_pool_is_qwen3_30b_a3b_as_published() -> None:
    counted = language_model()
    total = sum(counted.parts[name].total for name in TEXT_PARTS)
    assert total / 1e9 == pytest.approx(30.5, abs=0.05)  # model card: 30.5B, 3.3B activated
    assert 3.3e9 <= counted.active["text"] < 3.4e9
    assert counted.active["text"] == sum(counted.parts[name].active for name in TEXT_PARTS)


@pytest.mark.parametrize(
    ("published", "sizes"),
    [
        (1.7e9, {"num_layers": 28, "num_heads": 16, "num_kv_heads": 8, "ffn_width": 6144}),
        (0.6e9, {"width": 1024, "num_layers": 28, "num_heads": 16, "num_kv_heads": 8, "ffn_width": 3072}),
    ],
)
def test_dense_qwen3_is_as_published(published: float, sizes: dict[str, int]) -> None:
    """These two tie the head to the embedding; this model never does, so the head is left out here."""
    counted = language_model(num_experts=0, num_active_experts=0, **sizes)
    assert sum(counted.parts[name].total for name in TEXT_PARTS[:-1]) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("num_experts", [0, 6])
def test_one_pool_is_exactly_the_model_of_transformers(num_experts: int) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"width": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_width": 20, "vocab_size": 97}
    counted = language_model(num_experts=num_experts, num_active_experts=2 if num_experts else 0, **sizes)
    common = {
        "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 20, "tie_word_embeddings": False, "attention_bias": False,
    }  # fmt: skip
    with torch.device("meta"):
        if num_experts:
            config = transformers.Qwen3MoeConfig(**common, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20)
            model: nn.Module = transformers.Qwen3MoeForCausalLM(config)
        else:
            model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common))
    assert sum(counted.parts[name].total for name in TEXT_PARTS) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("scale", ["paper", "base"])
@pytest.mark.parametrize("key", ["pixel_rf", "pixel", "vae_rf", "repa", "continuous", "vlm_only", "vlm_siglip"])
def test_parts_are_those_of_the_model_that_is_trained(key: str, scale: str) -> None:
    """`RFModel` whole, with the modules of transformers in its encoder, which the estimate does without."""
    pytest.importorskip("transformers")
    config = find_grid(key).variant(key).config(get_scale(scale))
    counted = count_parameters(config).parts
    with torch.device("meta"):
        built = RFModel(config, config.model.decoder.vocab_size)
    sizes: dict[str, int] = {}
    for name, parameter in built.named_parameters():
        sizes[part_of(name)] = sizes.get(part_of(name), 0) + parameter.numel()
    assert sizes == {name: part.total for name, part in counted.items()}


def test_three_pools_share_attention_and_embeddings() -> None:
    """89.5B: three times the experts of Qwen3-30B-A3B, once its attention, embedding and head, and the encoder."""
    counted = count_parameters(find_grid("pixel_rf").variant("pixel_rf").config(paper()))
    experts, router = 48 * 128 * 3 * 2048 * 768, 48 * 2048 * 128
    attention = 48 * (2048 * (32 + 2 * 4) * 128 + 32 * 128 * 2048)
    assert [counted.parts[f"pool_{pool}"].total for pool in POOLS] == 3 * [experts + router]
    assert counted.parts["attention"].total == attention
    named = 3 * (experts + router) + attention + 2 * 151_936 * 2048 + counted.parts["encoder"].total
    assert named / counted.total == pytest.approx(1, abs=2e-3)
    for kind in ("text", "representation", "pixel"):
        assert 2.7e9 < counted.active[kind] < 3.4e9


DINOV3 = [  # (parameters in millions on the model cards, sizes)
    (840, paper().model.encoder),
    (300, EncoderConfig("dinov3", 1024, 24, 16, 4096, 16, pretrained="facebook/dinov3-vitl16-pretrain-lvd1689m")),
    (86, EncoderConfig("dinov3", 768, 12, 12, 3072, 16, pretrained="facebook/dinov3-vitb16-pretrain-lvd1689m")),
    (29, EncoderConfig("dinov3", 384, 12, 6, 1536, 16, pretrained="facebook/dinov3-vits16plus-pretrain-lvd1689m")),
]


@pytest.mark.parametrize(("millions", "config"), DINOV3, ids=[config.pretrained for _, config in DINOV3])
def test_dinov3_is_as_published_and_exactly_the_model_of_transformers(millions: int, config: EncoderConfig) -> None:
    size = encoder_of(config).size(config)
    assert size.total / 1e6 == pytest.approx(millions, rel=0.02)
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                hidden_size=config.width, num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
                intermediate_size=config.ffn_width, patch_size=config.patch_size, use_gated_mlp=is_gated(config),
                num_register_tokens=REGISTERS,
            )
        )  # fmt: skip
    assert size.total == sum(p.numel() for p in model.parameters())
    matrices = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert size.matmul == sum(matrices)


def test_siglip2_so400m_is_exactly_the_model_of_transformers_without_its_pooling_head() -> None:
    transformers = pytest.importorskip("transformers")
    config = GRIDS["table3e"].variant("vlm_siglip").config(paper()).model.encoder
    with torch.device("meta"):
        model = transformers.Siglip2VisionModel(
            transformers.Siglip2VisionConfig(
                hidden_size=config.width, num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
                intermediate_size=config.ffn_width, patch_size=config.patch_size, vision_use_head=False,
            )
        )  # fmt: skip
    size = encoder_of(config).size(config)
    assert size.total == sum(p.numel() for p in model.parameters())
    assert size.matmul == sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert size.total / 1e6 == pytest.approx(412.5, abs=0.5)


def test_a_local_checkpoint_says_whether_its_feed_forward_is_gated(tmp_path: Path) -> None:
    config = replace(paper().model.encoder, pretrained=str(tmp_path))
    assert not is_gated(config)  # a name that says nothing
    (tmp_path / "config.json").write_text('{"use_gated_mlp": true}')
    assert is_gated(config)
    assert encoder_of(config).size(config) == encoder_of(config).size(paper().model.encoder)


def test_wan_vae_is_exactly_the_model_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = diffusers.AutoencoderKLWan()
    assert sum(p.numel() for p in model.parameters()) == WAN_PARAMETERS
    for size in (64, 256):
        with FlopCounterMode(display=False) as counter:
            model.encode(torch.empty(1, 3, 1, size, size, device="meta"))
        assert counter.get_total_flops() == wan_encode_flops(size)


def test_pools_and_what_stands_beside_the_model() -> None:
    configs = GRIDS["table3a"].configs("paper")
    rf, pixel = count_parameters(configs["pixel_rf"]), count_parameters(configs["pixel"])
    pools = [rf.parts[f"pool_{name}"] for name in ("understanding", "representation", "pixel")]
    assert len(set(pools)) == 1
    experts = 3 * 2048 * 768 * 48
    assert pools[0].total == 128 * experts + 2048 * 128 * 48
    assert pools[0].active == 8 * experts + 2048 * 128 * 48
    assert rf.beside == {"target_encoder": rf.parts["encoder"].total, "codebook": 16_384 * 1280}
    assert not pixel.beside
    assert "pool_representation" not in pixel.parts
    assert count_parameters(configs["vae"]).beside == {"vae": WAN_PARAMETERS}
    alignment, joint = configs["pixel_rf"].stages[:2]
    assert rf.trained(joint).total == rf.total
    assert rf.trained(alignment).total == 1280 * 2048 + 2048 + 2048 * 2048 + 2048


def test_adaln_at_paper_would_add_more_than_a_billion() -> None:
    """The reason given for additive time conditioning in rf_repro.config.schema."""

    def modulation(config: ExperimentConfig) -> int:
        counted = count_parameters(config).parts
        return counted["time_modulation"].total if "time_modulation" in counted else 0

    assert modulation(paper()) == 0
    assert modulation(apply_overrides(paper(), {"model.decoder.time_conditioning": "adaln"})) > 1e9
    assert modulation(tiny()) == 4 * (6 * 128 * 128 + 6 * 128)
