"""BAGEL's Mixture-of-Transformers (https://github.com/ByteDance-Seed/Bagel) from a clone, of which one file and what it imports
is read. Its code was written for transformers 4 and FlashAttention; what it misses elsewhere is put in its place from outside:

    flash_attn          an empty module: training does not call it
    sdpa_kernel         asks for a kernel that only CUDA has; elsewhere PyTorch chooses
    attention in bf16   what it casts to bf16 goes on in the model's dtype
    "default" RoPE      transformers 5 has it no longer in its table
"""

import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import models
from benchmarks.peers.contest import Size

THETA = 1e6  # of the rotary positions


def load(clone: Path) -> Any:
    """The module of its language model."""
    if not (clone / "modeling" / "bagel" / "qwen2_navit.py").is_file():
        raise SystemExit(f"--bagel {clone}: no clone of https://github.com/ByteDance-Seed/Bagel")
    for name, path in (("flash_attn", None), ("modeling", clone / "modeling"), ("modeling.bagel", clone / "modeling" / "bagel")):
        module: Any = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=path is not None)
        module.__path__ = [str(path)] if path else []  # without what its __init__ imports
        module.flash_attn_varlen_func = None
        sys.modules[name] = module
    qwen2: Any = import_module("modeling.qwen2.modeling_qwen2")

    def default_rope(config: Any, device: Any = None, **_: Any) -> tuple[Tensor, float]:
        head_dim = config.hidden_size // config.num_attention_heads
        return THETA ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim), 1.0

    qwen2.ROPE_INIT_FUNCTIONS = {"default": default_rope}
    qwen2.Qwen2RotaryEmbedding.compute_default_rope_parameters = staticmethod(default_rope)
    return import_module("modeling.bagel.qwen2_navit")


def step(clone: Path, size: Size, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of all its layers. Text is its understanding expert's, representation and pixels its generation's."""
    from benchmarks.peers.training import step as step_of

    navit = load(clone)
    if device.type != "cuda":
        navit.sdpa_kernel = lambda backends: nullcontext()
        navit.scaled_dot_product_attention = lambda q, k, v, mask: F.scaled_dot_product_attention(
            q.to(dtype), k.to(dtype), v.to(dtype), mask.to(dtype)
        )
    config = navit.Qwen2Config(
        vocab_size=size.codes, hidden_size=size.width, intermediate_size=size.inner, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, max_position_embeddings=4096, rope_theta=THETA,
        qk_norm=True, layer_module="Qwen2MoTDecoderLayer", freeze_und=False, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = navit.Qwen2Model(config).to(device, dtype).train()
    layout = models.sample_layout(size)
    mask = torch.zeros(size.tokens, size.tokens).masked_fill(~layout.may_attend(), float("-inf")).to(device)
    is_text = (torch.arange(size.samples * size.tokens) % size.tokens < size.text).to(device)

    def forward(x: Tensor) -> Tensor:
        result: Tensor = model(
            packed_sequence=x, sample_lens=[size.tokens] * size.samples, attention_mask=[mask] * size.samples,
            packed_position_ids=layout.positions().repeat(size.samples).to(device),
            packed_und_token_indexes=is_text.nonzero()[:, 0], packed_gen_token_indexes=(~is_text).nonzero()[:, 0],
        )  # fmt: skip
        return result

    return step_of(forward, (size.samples * size.tokens, size.width), device, dtype)
