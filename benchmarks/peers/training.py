"""A training step of the decoder: forward and backward of all blocks, without embeddings, heads and optimiser.

Everyone gets the same number of samples and tokens, as embeddings that have a gradient too; layers, width, heads, head_dim and
the inner width of the feed-forward are alike: a token meets layers * (4 width^2 + 3 width inner) parameters in each, 6.3 million.
The gradient of the output is given. All parameters have gradients, added up from turn to turn. Beyond that each does what its
design asks for:

    ours              MixtureOfTransformers: three pools, text and representation causal, pixels bidirectional; time is added to
                      the pixels' embeddings, as at scale `paper`
    ours, adaLN       time modulates the pixels in each block, as at scale `tiny` and as transfusion-pytorch has it
    ours, compiled    each block compiled; seconds of compilation are not counted
    Qwen3-MoE         transformers' Qwen3MoeModel: three experts, of which a router chooses one a token; all causal, text alone;
                      SDPA or explicit attention, whichever is faster
    transfusion       transfusion-pytorch's Transformer: text causal, pixels bidirectional; text and representation are its text,
                      pixels its one modality. Its design does more: it modulates by the time of each token (24 width^2 a layer
                      beside the 16 of attention and feed-forward), skips layers (2 width^2 in half of them, which cannot be
                      switched off in 0.20), and has gates, a soft cap and attention over layers. It mixes dtypes of its own, so
                      that its bf16 is autocast's
    BAGEL             its MoT from a clone of its repository: two pools, with attention matrices of their own
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import bagel, models
from benchmarks.peers.contest import OURS, Contest, Entry, Row, Size, missing
from rf_repro.compute.compiled import can_compile


def compare(size: Size, device: torch.device, dtype: torch.dtype, clone: Path | None) -> list[Row]:
    """`clone`: of BAGEL's repository."""
    contest = Contest("training step of the decoder", "µs/token", dtype, size.samples * size.tokens, 1e6)
    entries, rows = our_entries(size, device, dtype), []
    if size.compile:
        found, why = our_compiled(size, device, dtype)
        entries += found
        rows += [contest.left_out("ours, compiled", why)] if why else []
    else:
        rows.append(contest.left_out("ours, compiled", "left out: not at this size"))
    for name, package, make in (
        ("Qwen3-MoE (transformers), text", "transformers", qwen3_moe),
        ("transfusion-pytorch", "transfusion-pytorch", transfusion),
    ):
        if why := missing(package):
            rows.append(contest.left_out(name, why))
        else:
            entries += [Entry(name, task, variant) for variant, task in make(size, device, dtype).items()]
    if clone is None:
        rows.append(contest.left_out("BAGEL's MoT", "not given: --bagel FOLDER, a clone of its repository"))
    else:
        entries.append(Entry("BAGEL's MoT", bagel.step(clone, size, device, dtype)))
    return contest.run(entries, device, size.repeats) + rows


def step(forward: Callable[[Tensor], Tensor], shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Any:
    """Forward and backward of embeddings of that shape, whose last axis is the width."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    x.requires_grad_()

    def run() -> None:
        forward(x).backward(gradient)

    return run


def our_entries(size: Size, device: torch.device, dtype: torch.dtype) -> list[Entry]:
    additive, adaln = (models.decoder(size, device, dtype, kind) for kind in ("additive", "adaln"))
    return [Entry(OURS, our_step(additive, size, device, dtype)), Entry("ours, adaLN", our_step(adaln, size, device, dtype))]


def our_step(decoder: torch.nn.Module, size: Size, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    packed = models.packed_layout(size)
    time_BD = torch.randn(size.samples, size.width, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    return step(lambda x: decoder(x, packed, time_BD)[0], (packed.num_tokens, size.width), device, dtype)


def our_compiled(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[list[Entry], str]:
    """Nothing, and why, where it cannot be compiled: no working compiler of C++."""
    if not can_compile(device.type):
        return [], "left out: does not compile here"
    task = our_step(models.compiled(models.decoder(size, device, dtype)), size, device, dtype)
    task()
    return [Entry("ours, compiled", task)], ""


def qwen3_moe(size: Size, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    from transformers import Qwen3MoeConfig, Qwen3MoeModel

    tasks = {}
    for attention in ("sdpa", "eager"):
        config = Qwen3MoeConfig(
            vocab_size=size.codes, hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
            num_key_value_heads=size.heads, head_dim=size.head_dim, moe_intermediate_size=size.inner,
            num_experts=3, num_experts_per_tok=1, norm_topk_prob=False, attn_implementation=attention, use_cache=False,
        )  # fmt: skip
        torch.manual_seed(0)
        model = Qwen3MoeModel(config).to(device, dtype).train()
        shape = (size.samples, size.tokens, size.width)
        tasks[f"{attention} attention"] = step(
            lambda x, model=model: model(inputs_embeds=x).last_hidden_state, shape, device, dtype
        )
    return tasks


def transfusion(size: Size, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    from rotary_embedding_torch import RotaryEmbedding
    from transfusion_pytorch.transfusion import Transformer

    torch.manual_seed(0)
    model = Transformer(
        size.width, depth=size.layers, dim_head=size.head_dim, heads=size.heads,
        ff_expansion_factor=1.5 * size.inner / size.width, use_flex_attn=device.type == "cuda",
    ).to(device)  # fmt: skip
    text = size.text + size.representation
    # One modality a sample: its kind, where it begins, how long it is. All its tokens have one position, as ours have.
    spans = torch.tensor([[[0, text, size.pixels]]], device=device).expand(size.samples, -1, -1)
    positions = torch.cat([torch.arange(text), torch.full((size.pixels,), text)]).to(device)
    rotary = RotaryEmbedding(size.head_dim).to(device)(positions)[None, None]
    times = torch.rand(size.samples, size.tokens, device=device)

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model(x.float(), times=times, modality_positions=spans, rotary_emb=rotary).to(dtype)

    return {"": step(forward, (size.samples, size.tokens, size.width), device, dtype)}
