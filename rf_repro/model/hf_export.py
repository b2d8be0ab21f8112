"""A decoder with its understanding pool as a Hugging Face checkpoint: what `hf_weights` reads, written."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_folder, write_json
from rf_repro.core.hub import some
from rf_repro.model.hf_checkpoint import CONFIG, INDEX, SINGLE
from rf_repro.model.hf_weights import Entry, architecture, backbone_entries

MAX_SHARD_BYTES = 5 * 10**9  # as transformers
MAX_POSITIONS = 40_960  # Qwen3's; rotary positions have no table, so nothing depends on it


def export_backbone(
    state: Mapping[str, Tensor], config: DecoderConfig, folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes config.json and safetensors that `Qwen3ForCausalLM` or `Qwen3MoeForCausalLM.from_pretrained` loads, bit for bit.

    Experts are written one by one, as published checkpoints have them. The folder appears whole or not at all; shards are
    made one at a time. The tokenizer is not part of it: copy its files from the checkpoint that training started from.

    Args:
        state: whole tensors by RFModel's names, in the dtype to write; what is not of the backbone is left out.
        folder: must not exist, or be empty.
        max_shard_bytes: of a file; a larger tensor has a file of its own.

    Raises:
        UserError: `state` lacks a tensor or has one of another shape or dtype; the folder is in use or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: must be a new or empty folder; choose another or delete it")
    entries = _entries(state, config)
    shards = _shards(state, entries, max_shard_bytes)
    sources = {name: (entry, index) for entry in entries for index, (name, _) in enumerate(entry.sources)}
    files: dict[str, str] = {}
    with atomic_folder(folder) as temporary:
        for number, names in enumerate(shards, start=1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {name: _part(state, *sources[name]) for name in names}
            try:
                save_file(tensors, temporary / file, metadata={"format": "pt"})
            except SafetensorError as error:
                raise UserError(f"{folder}: cannot write ({error}); free space or choose another folder") from error
            files |= dict.fromkeys(names, file)
        if len(shards) > 1:
            total = sum(prod(entry.shape) * state[entry.targets[0]].element_size() for entry in entries)
            write_json(temporary / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
        write_json(temporary / CONFIG, _hf_config(config, state["text_embedding.weight"]))


def _entries(state: Mapping[str, Tensor], config: DecoderConfig) -> list[Entry]:
    embedding = state.get("text_embedding.weight")
    entries = backbone_entries(config, 0 if embedding is None else len(embedding))
    missing = [entry.targets[0] for entry in entries if entry.targets[0] not in state]
    wrong = [
        f"{entry.targets[0]} {list(state[entry.targets[0]].shape)} instead of {list(entry.shape)}"
        for entry in entries if entry.targets[0] in state and tuple(state[entry.targets[0]].shape) != entry.shape
    ]  # fmt: skip
    dtypes = {str(state[entry.targets[0]].dtype) for entry in entries if entry.targets[0] in state}
    if missing or wrong or len(dtypes) > 1:
        raise UserError(f"export: state must hold a whole backbone of one dtype: lacking {some(missing)}; of another shape "
                        f"{some(wrong)}; dtypes {some(dtypes)}")  # fmt: skip
    return entries


def _shards(state: Mapping[str, Tensor], entries: list[Entry], max_bytes: int) -> list[list[str]]:
    """Names of the checkpoint's tensors by file, in order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for entry in entries:
        for name, shape in entry.sources:
            size = prod(shape) * state[entry.targets[0]].element_size()
            if shards[-1] and filled + size > max_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(name)
            filled += size
    return shards


def _part(state: Mapping[str, Tensor], entry: Entry, index: int) -> Tensor:
    """One of the tensors that an entry joins, in memory of its own."""
    start = sum(prod(shape) for _, shape in entry.sources[:index])
    shape = entry.sources[index][1]
    flat = state[entry.targets[0]].detach().reshape(-1)
    return flat[start : start + prod(shape)].to("cpu", copy=True).view(shape)


def _hf_config(config: DecoderConfig, embedding: Tensor) -> dict[str, Any]:
    """config.json, in the fields of the published Qwen3 checkpoints."""
    fields: dict[str, Any] = {
        "architectures": [architecture(config)], "model_type": "qwen3_moe" if config.num_experts else "qwen3",
        "vocab_size": len(embedding), "hidden_size": config.width, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "rope_scaling": None, "use_sliding_window": False, "sliding_window": None,
        "max_position_embeddings": MAX_POSITIONS, "tie_word_embeddings": False, "use_cache": True, "initializer_range": 0.02,
        "torch_dtype": str(embedding.dtype).removeprefix("torch."), "intermediate_size": config.ffn_width,
    }  # fmt: skip
    if config.num_experts:
        fields |= {
            "moe_intermediate_size": config.ffn_width, "num_experts": config.num_experts,
            "num_experts_per_tok": config.num_active_experts, "norm_topk_prob": True, "decoder_sparse_step": 1,
            "mlp_only_layers": [], "output_router_logits": False, "router_aux_loss_coef": 0.001,
        }  # fmt: skip
    return fields
