"""Tiny Qwen3 and Qwen3-MoE models of transformers, beside ours of the same sizes, for tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rf_repro.config.schema import ExperimentConfig
from rf_repro.model.hf_checkpoint import INDEX
from rf_repro.model.rf_model import RFModel, UnderstandingInput
from tests.model.small import VOCAB, largest_difference, small_config

transformers = pytest.importorskip("transformers")

TOLERANCE = 2e-5  # of logits and gradients over their largest, fp32; issue: 1e-4
OWN = {"model__decoder__rope_theta": 7e3, "model__decoder__norm_eps": 3e-5}
DENSE = small_config(**OWN)
SPARSE = small_config(model__decoder__num_experts=6, model__decoder__num_active_experts=2, **OWN)
KINDS = pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
B, T = 3, 9


def qwen(config: ExperimentConfig, tied: bool = False, **changes: object) -> nn.Module:
    """The `transformers` model of those sizes, every weight random (norms too)."""
    decoder = config.model.decoder
    fields = {
        "vocab_size": VOCAB, "hidden_size": decoder.width, "num_hidden_layers": decoder.num_layers,
        "num_attention_heads": decoder.num_heads, "num_key_value_heads": decoder.num_kv_heads, "head_dim": decoder.head_dim,
        "rms_norm_eps": decoder.norm_eps, "rope_parameters": {"rope_type": "default", "rope_theta": decoder.rope_theta},
        "tie_word_embeddings": tied, "max_position_embeddings": 64, "attn_implementation": "eager",
        "intermediate_size": decoder.ffn_width,
    }  # fmt: skip
    torch.manual_seed(0)
    if decoder.num_experts:
        fields |= {
            "num_experts": decoder.num_experts, "num_experts_per_tok": decoder.num_active_experts, "norm_topk_prob": True,
            "moe_intermediate_size": decoder.ffn_width, "experts_implementation": "eager",
        }  # fmt: skip
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**fields | changes))
    else:
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**fields | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    return model.eval()


def text_ids() -> Tensor:
    return torch.randint(VOCAB, (B, T), generator=torch.Generator().manual_seed(1))


def our_logits(model: RFModel, ids: Tensor) -> Tensor:
    return model.text_logits(model([], [UnderstandingInput(None, ids)]).understanding[0])


def relative(ours: Tensor, theirs: Tensor) -> float:
    scale = float(theirs.detach().float().abs().max())
    assert scale > 0
    return largest_difference(ours, theirs) / scale


def one_file(folder: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict) -> None:
    """The shards as one `model.safetensors`, edited."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    tensors = {name: tensor.clone().contiguous() for name, tensor in edit(tensors).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_in_shards(kind: str, folder: Path) -> tuple[ExperimentConfig, nn.Module, Path]:
    """The configuration, dense or sparse, their model, and the folder where they saved it in several shards."""
    config = DENSE if kind == "dense" else SPARSE
    theirs = qwen(config)
    theirs.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return config, theirs, folder
