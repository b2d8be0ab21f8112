"""Checkpoints of Qwen3 and Qwen3-MoE, written by transformers, as our backbone and back: same logits, gradients and bits."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.model.hf_export import export_backbone
from rf_repro.model.hf_weights import Backbone, backbone_entries, backbone_tensors, load_backbone
from rf_repro.model.layout import SampleLayout, Span
from tests.model.qwen import DENSE, KINDS, SPARSE, TOLERANCE, B, T, one_file, our_logits, qwen, relative, save_in_shards, text_ids
from tests.model.small import VOCAB, small_model

transformers = pytest.importorskip("transformers")
BF16_TOLERANCE = 0.03  # of logits, relative; bf16 has 8 bits, and the two round attention and experts in different places


@pytest.fixture(params=["dense", "sparse"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ExperimentConfig, nn.Module, Path]:
    return save_in_shards(request.param, tmp_path / "checkpoint")


def fuse(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Experts as transformers 5 holds them in memory."""
    result = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(SPARSE.model.decoder.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        experts = range(SPARSE.model.decoder.num_experts)
        result[prefix + "gate_up_proj"] = torch.stack(
            [torch.cat([tensors[f"{prefix}{expert}.{name}_proj.weight"] for name in ("gate", "up")]) for expert in experts]
        )
        result[prefix + "down_proj"] = torch.stack([tensors[f"{prefix}{expert}.down_proj.weight"] for expert in experts])
    return result


# Loading


@torch.no_grad()
def test_logits_of_a_sharded_checkpoint_equal_theirs(case: tuple[ExperimentConfig, nn.Module, Path]) -> None:
    config, theirs, folder = case
    model, ids = small_model(config), text_ids()
    load_backbone(model, str(folder), "copy")
    expected = theirs(input_ids=ids).logits
    assert relative(our_logits(model, ids), expected) < TOLERANCE
    assert float(expected.std()) > 0.1


@torch.no_grad()
def test_token_by_token_with_caches_equals_theirs_with_use_cache(case: tuple[ExperimentConfig, nn.Module, Path]) -> None:
    config, theirs, folder = case
    model, ids = small_model(config), text_ids()
    load_backbone(model, str(folder), "copy")
    caches, theirs_cache = model.decoder.new_caches(B), None
    for start, stop in [(0, 4), *((token, token + 1) for token in range(4, T))]:  # a prompt, then one by one
        output = theirs(input_ids=ids[:, start:stop], past_key_values=theirs_cache, use_cache=True)
        theirs_cache = output.past_key_values
        layout = SampleLayout((Span("text", stop),), num_cached=start)
        hidden = model.extend(caches, layout, model.text_embedding(ids[:, start:stop]))
        assert relative(model.text_logits(hidden), output.logits) < TOLERANCE


def test_gradients_of_every_weight_equal_theirs(case: tuple[ExperimentConfig, nn.Module, Path]) -> None:
    config, theirs, folder = case
    model, ids = small_model(config), text_ids()
    load_backbone(model, str(folder), "copy")
    nn.functional.cross_entropy(our_logits(model, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    nn.functional.cross_entropy(theirs(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    own, hers = dict(model.named_parameters()), dict(theirs.named_parameters())
    used = set()
    for entry in backbone_entries(config.model.decoder, VOCAB, fused=True):
        parts = [hers[name].grad.flatten() for name, _ in entry.sources]
        used |= {name for name, _ in entry.sources}
        assert relative(own[entry.targets[0]].grad, torch.cat(parts).view(entry.shape)) < TOLERANCE, entry.targets
    assert used == set(hers)


@torch.no_grad()
def test_bf16_logits_are_as_near_as_bf16_allows(case: tuple[ExperimentConfig, nn.Module, Path]) -> None:
    """Their bf16 logits are themselves as far from fp32's as ours are from theirs."""
    config, theirs, folder = case
    ids = text_ids()
    exact = theirs(input_ids=ids).logits
    theirs.to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    model = small_model(config).to(torch.bfloat16)
    assert load_backbone(model, str(folder), "copy").dtype == "BF16"
    expected, found = theirs(input_ids=ids).logits, our_logits(model, ids)
    assert found.dtype == torch.bfloat16
    assert relative(found, expected) < BF16_TOLERANCE
    assert relative(found.float(), exact) < 2 * BF16_TOLERANCE


@torch.no_grad()
def test_experts_one_by_one_and_fused_load_alike(tmp_path: Path) -> None:
    qwen(SPARSE).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert "model.layers.1.mlp.experts.5.gate_proj.weight" in names  # as published checkpoints have them
    separate = dict(backbone_tensors(SPARSE, str(tmp_path), "copy"))
    one_file(tmp_path, fuse)
    together = dict(backbone_tensors(SPARSE, str(tmp_path), "copy"))
    assert set(separate) == set(together)
    assert all(torch.equal(separate[name], together[name]) for name in separate)


@torch.no_grad()
def test_pools_are_copies_or_keep_their_values(case: tuple[ExperimentConfig, nn.Module, Path]) -> None:
    config, _, folder = case
    for how in ("copy", "random"):
        model = small_model(config)
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        report = load_backbone(model, str(folder), how)
        after = dict(model.named_parameters())
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        assert changed == set(after) - set(report.new)
        block = model.decoder.blocks[1]
        for pool in ("representation", "pixel"):
            own, first = block.pools[pool].state_dict(), block.pools["understanding"].state_dict()
            assert all(torch.equal(own[name], first[name]) == (how == "copy") for name in first)
            assert torch.equal(block.ffn_norms[pool].weight, block.ffn_norms["understanding"].weight)
            assert report.pools[pool] == {"copy": "copied", "random": "random"}[how]
            assert report.pools["understanding"] == "loaded"
        new = {name.split(".")[0] for name in report.new if not name.startswith("decoder.")}
        assert new == {"encoder", "connector", "image_position", "pixels", "representation"}
        text = report.describe()
        assert str(folder) in text
        assert ("pixel pool" in text) == (how == "random")
        assert f"{report.num_tensors} tensors (F32)" in text


@torch.no_grad()
def test_a_tied_head_is_a_copy_of_the_embedding(tmp_path: Path) -> None:
    theirs = qwen(DENSE, tied=True)
    theirs.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model, ids = small_model(DENSE), text_ids()
    assert load_backbone(model, str(tmp_path), "copy").tied
    assert relative(our_logits(model, ids), theirs(input_ids=ids).logits) < TOLERANCE
    assert model.text_head.weight is not model.text_embedding.weight
    assert torch.equal(model.text_head.weight, model.text_embedding.weight)


def test_published_configurations_fit_the_config_that_names_them(tmp_path: Path) -> None:
    """config.json as on the hub (transformers 4's fields), the sizes of a tiny model."""
    qwen(SPARSE).save_pretrained(tmp_path)
    published = {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
        "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 8, "hidden_act": "silu", "hidden_size": 32,
        "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
        "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 48, "norm_topk_prob": True,
        "num_attention_heads": 4, "num_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "output_router_logits": False, "rms_norm_eps": 3e-5, "rope_scaling": None, "rope_theta": 7000.0,
        "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert Backbone(SPARSE, str(tmp_path), "copy").entries


# Export


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shard", [20_000, 10**9], ids=["shards", "one file"])
@KINDS
def test_exports_load_in_transformers_and_return_bit_by_bit(
    config: ExperimentConfig, shard: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    model, ids = small_model(config, seed=3).to(dtype), text_ids()
    export_backbone(model.state_dict(), config.model.decoder, tmp_path / "out", shard)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert ("model.safetensors" in files) == (shard == 10**9)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing temporary stays
    kind = transformers.Qwen3MoeForCausalLM if config.model.decoder.num_experts else transformers.Qwen3ForCausalLM
    theirs, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True, dtype="auto", attn_implementation="eager")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.dtype == dtype
    expected = theirs.float().eval()(input_ids=ids).logits
    assert relative(our_logits(copy.deepcopy(model).float(), ids), expected) < TOLERANCE

    again = small_model(config, seed=4).to(dtype)
    report = load_backbone(again, str(tmp_path / "out"), "random")
    for name, parameter in again.named_parameters():
        if (name not in report.new and not name.startswith("decoder.blocks.")) or ".understanding." in name:
            assert torch.equal(parameter, model.get_parameter(name)), name
    assert torch.equal(again.decoder.blocks[0].attention.qkv.weight, model.decoder.blocks[0].attention.qkv.weight)


def test_an_export_refuses_what_it_cannot_write_whole(tmp_path: Path) -> None:
    state = small_model(DENSE).state_dict()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="new or empty folder"):
        export_backbone(state, DENSE.model.decoder, tmp_path / "used")
    del state["text_norm.weight"]
    state["text_head.weight"] = state["text_head.weight"][:-1]
    state["decoder.blocks.0.attention.out.weight"] = state["decoder.blocks.0.attention.out.weight"].bfloat16()
    with pytest.raises(UserError, match=r"lacking text_norm.weight; .*text_head.weight \[22, 32\] instead of \[23, 32\]; dtypes"):
        export_backbone(state, DENSE.model.decoder, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
