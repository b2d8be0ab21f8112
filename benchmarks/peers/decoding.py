"""Tokens one after the other: 64 codes of 512 after a prefix of 33 tokens, drawn from the 50 likeliest, with a cache.

Each reads the prefix in one pass and makes the rest in steps of one token, of the same layers, width, heads, feed-forward and
vocabulary.

    ours              Sampler.sample_representation: a text of 32 and the start token, then 64 representation tokens in their own
                      pool, with 2D positions. The last one is read too, for the pixels that follow: one pass more than the others
    Qwen3             transformers' Qwen3ForCausalLM.generate, with the cache, dynamic or static, that is faster; not compiled
    x-transformers    AutoregressiveWrapper.generate of a decoder with rotary positions, RMS norms, q/k norm and SwiGLU

With guidance each token has a conditional and an unconditional pass: ours runs the two as one batch, transformers one by one.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers import models
from benchmarks.peers.contest import OURS, Contest, Entry, Row, Size, missing
from rf_repro.config.schema import SamplingConfig

TOP_K = 50


def compare(size: Size, device: torch.device, dtype: torch.dtype) -> list[Row]:
    rows = []
    for batch in size.batches:
        contest = Contest(f"decoding {size.decoded} tokens, batch {batch}", "ms/token", dtype, size.decoded, 1e3)
        rows += _run(contest, size, device, batch, guidance=1.0)
    contest = Contest(f"decoding {size.decoded} tokens with guidance, batch 1", "ms/token", dtype, size.decoded, 1e3)
    return rows + _run(contest, size, device, 1, guidance=2.0)


def _run(contest: Contest, size: Size, device: torch.device, batch: int, guidance: float) -> list[Row]:
    entries, rows = [Entry(OURS, ours(size, device, contest.dtype, batch, guidance))], []
    peers: list[tuple[str, str, Callable[..., dict[str, Callable[[], Any]]]]] = [("Qwen3 (transformers)", "transformers", qwen3)]
    if guidance == 1:
        peers.append(("x-transformers", "x-transformers", x_transformers))
    for name, package, make in peers:
        if why := missing(package):
            rows.append(contest.left_out(name, why))
        else:
            tasks = make(size, device, contest.dtype, batch, guidance)
            entries += [Entry(name, task, variant) for variant, task in tasks.items()]
    return contest.run(entries, device, size.repeats) + rows


def _prompts(size: Size, count: int, length: int, device: torch.device) -> torch.Tensor:
    return torch.randint(size.codes, (count, length), generator=torch.Generator().manual_seed(0)).to(device)


def ours(size: Size, device: torch.device, dtype: torch.dtype, batch: int, guidance: float) -> Callable[[], object]:
    sampling = SamplingConfig(cfg_representation=guidance, top_k=TOP_K)
    sampler = models.sampler(size, size.decoded, size.pixels, sampling, device, dtype)
    text_ids = _prompts(size, batch, size.text, device)
    return torch.no_grad()(lambda: sampler.sample_representation(text_ids, range(batch)))


def qwen3(size: Size, device: torch.device, dtype: torch.dtype, batch: int, guidance: float) -> dict[str, Callable[[], Any]]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=size.codes, hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.heads, head_dim=size.head_dim, intermediate_size=size.inner, tie_word_embeddings=False,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config).to(device, dtype).eval()
    ids = _prompts(size, batch, size.text + 1, device)
    arguments = {"attention_mask": torch.ones_like(ids), "max_new_tokens": size.decoded, "do_sample": True, "top_k": TOP_K,
                 "top_p": 1.0, "temperature": 1.0, "disable_compile": True}  # fmt: skip
    if guidance != 1:
        arguments |= {"guidance_scale": guidance, "negative_prompt_ids": torch.zeros_like(ids)}

    def task(cache: str) -> Callable[[], Any]:
        def run() -> None:
            made = model.generate(ids, cache_implementation=cache, **arguments)
            assert made.shape == (batch, ids.shape[1] + size.decoded)

        return run

    # Its guidance keeps a dynamic cache of its own beside either.
    return {f"{cache} cache": task(cache) for cache in ("dynamic", "static")}


def x_transformers(
    size: Size, device: torch.device, dtype: torch.dtype, batch: int, guidance: float
) -> dict[str, Callable[[], Any]]:
    from loguru import logger
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    logger.disable("x_transformers")
    layers = Decoder(
        dim=size.width, depth=size.layers, heads=size.heads, attn_dim_head=size.head_dim, rotary_pos_emb=True, use_rmsnorm=True,
        attn_qk_norm=True, ff_glu=True, ff_swish=True, ff_no_bias=True, ff_mult=size.inner / size.width,
    )  # fmt: skip
    net = TransformerWrapper(num_tokens=size.codes, max_seq_len=1024, attn_layers=layers, use_abs_pos_emb=False)
    model: Any = AutoregressiveWrapper(net).to(device, dtype).eval()
    ids = _prompts(size, batch, size.text + 1, device)

    def run() -> None:
        made = model.generate(ids, size.decoded, filter_logits_fn="top_k", filter_kwargs={"k": TOP_K}, cache_kv=True)
        assert made.shape == (batch, size.decoded)

    return {"": run}
