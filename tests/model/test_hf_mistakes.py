"""Checkpoints that are not our backbone, or damaged: what is refused, in one line."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.model.hf_checkpoint import INDEX
from rf_repro.model.hf_weights import load_backbone
from rf_repro.model.rf_model import RFModel
from tests.model.qwen import DENSE, KINDS, SPARSE, one_file, qwen, save_in_shards
from tests.model.small import VOCAB, small_config, small_model


@pytest.fixture(params=["dense", "sparse"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ExperimentConfig, nn.Module, Path]:
    return save_in_shards(request.param, tmp_path / "checkpoint")


def refusal(model: RFModel, folder: Path | str) -> str:
    """The one line of the error; the model stays as it was."""
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError) as error:
        load_backbone(model, str(folder), "copy")
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_difference_of_the_configuration_is_named_at_once(tmp_path: Path) -> None:
    qwen(SPARSE, decoder_sparse_step=2, use_sliding_window=True).save_pretrained(tmp_path)
    other = small_config(
        model__decoder__width=36, model__decoder__num_layers=3, model__decoder__num_heads=6, model__decoder__num_kv_heads=3,
        model__decoder__head_dim=10, model__decoder__ffn_width=20, model__decoder__num_experts=5,
        model__decoder__num_active_experts=1,
    )  # fmt: skip
    edit_config(tmp_path, norm_topk_prob=False, quantization_config={"quant_method": "fp8"}, hidden_act="gelu")
    line = refusal(small_model(other), tmp_path)
    for name in ("width=36", "num_layers=3", "num_heads=6", "num_kv_heads=3", "head_dim=10", "ffn_width=20", "num_experts=5",
                 "num_active_experts=1", "rope_theta=1000000.0 (rope_theta=7000.0)", "norm_eps=1e-06", "norm_topk_prob=False",
                 "decoder_sparse_step=2", "use_sliding_window=True", "quantization_config=", "hidden_act='gelu'"):  # fmt: skip
        assert name in line


def test_other_models_and_positions_are_refused(tmp_path: Path) -> None:
    qwen(DENSE).save_pretrained(tmp_path)
    assert "Qwen3MoeForCausalLM" in refusal(small_model(SPARSE), tmp_path)
    edit_config(tmp_path, rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 7e3})
    assert "rope_type='yarn'" in refusal(small_model(DENSE), tmp_path)
    edit_config(tmp_path, architectures=["Qwen2ForCausalLM"], vocab_size="many", rope_parameters=None)
    line = refusal(small_model(DENSE), tmp_path)
    assert all(part in line for part in ("Qwen2ForCausalLM", "vocab_size='many'", "rope_theta=7000.0 (rope_theta=None)"))


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    qwen(DENSE, vocab_size=VOCAB + 2).save_pretrained(tmp_path)
    assert f"text_embedding.weight [{VOCAB + 2}, 32], the model has [{VOCAB}, 32]" in refusal(small_model(DENSE), tmp_path)


@KINDS
def test_missing_unknown_misshapen_and_quantised_tensors_are_named(config: ExperimentConfig, tmp_path: Path) -> None:
    qwen(config).save_pretrained(tmp_path)

    def edit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["model.layers.1.self_attn.k_norm.weight"]
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
        tensors["model.layers.0.self_attn.o_proj.weight"] = torch.zeros(32, 31)
        tensors["model.norm.weight"] = torch.zeros(32, dtype=torch.int8)
        return tensors

    one_file(tmp_path, edit)
    line = refusal(small_model(config), tmp_path)
    assert "lacking: model.layers.1.self_attn.k_norm.weight;" in line
    assert "not known: model.layers.0.self_attn.q_proj.bias;" in line
    assert "model.layers.0.self_attn.o_proj.weight [32, 31] instead of [32, 32]" in line
    assert "model.norm.weight I8" in line


def test_damaged_and_missing_shards_are_named(case: tuple[ExperimentConfig, nn.Module, Path]) -> None:
    config, _, folder = case
    model = small_model(config)
    shards = sorted(folder.glob("*.safetensors"))
    whole, index = shards[1].read_bytes(), (folder / INDEX).read_text()
    shards[1].write_bytes(whole[: len(whole) // 2])
    assert f"{shards[1]}: not a readable safetensors file" in refusal(model, folder)
    shards[1].unlink()
    assert f"lacks shards {shards[1].name}" in refusal(model, folder)
    shards[1].write_bytes(shards[0].read_bytes())
    assert "tensors differ" in refusal(model, folder)
    shards[1].write_bytes(whole)
    edited = json.loads(index)
    edited["weight_map"]["lm_head.weight"] = "../outside.safetensors"  # an index must not lead out of its folder
    (folder / INDEX).write_text(json.dumps(edited))
    assert "weight_map" in refusal(model, folder)
    (folder / INDEX).write_text("[]")
    assert "must be a JSON object" in refusal(model, folder)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    qwen(DENSE).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin are pickles, which can run code and are never opened" in refusal(small_model(DENSE), tmp_path)


def test_what_cannot_be_had_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = small_model(DENSE)
    assert "must be a folder that exists, or a hub id" in refusal(model, tmp_path / "nothing")
    line = refusal(model, "some-organisation/some-model")
    assert "hf download some-organisation/some-model --include '*.json' '*.safetensors' --local-dir FOLDER" in line
    assert f"{tmp_path / 'config.json'}: no such file" in refusal(model, tmp_path)
