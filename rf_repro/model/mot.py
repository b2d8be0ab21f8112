"""The Mixture-of-Transformers decoder (paper Sec. 3.3, after BAGEL): shared self-attention, and a feed-forward pool for
each type of token. With one pool it is exactly a Qwen3 decoder.

T packed tokens, D width, H query heads, K key-value heads, d head_dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rf_repro.compute.compiled import compilable
from rf_repro.config.model_schema import DecoderConfig
from rf_repro.maths.layers import RMSNorm, apply_rope, rms_norm
from rf_repro.model.attention import KVCache, PackContext, attend, context_of
from rf_repro.model.experts import build_pool
from rf_repro.model.layout import POOLS, PackedLayout, Pool


class SelfAttention(nn.Module):
    """Grouped-query attention with q/k norm and rotary positions (Qwen3). Query, key and value are one matrix."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.qkv = nn.Linear(config.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(self.num_heads * self.head_dim, config.width, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps)

    def forward(self, x_TD: Tensor, context: PackContext, cache: KVCache | None, commit: bool) -> Tensor:
        heads = self.qkv(x_TD).unflatten(1, (-1, self.head_dim))
        qk_TXd, v_TKd = heads.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], 1)
        q_THd, k_TKd = self._rotated(qk_TXd, context)
        return self.out(attend(q_THd, k_TKd, v_TKd, context, cache, commit))

    def _rotated(self, qk_TXd: Tensor, context: PackContext) -> tuple[Tensor, Tensor]:
        """Queries and keys, normalised and rotated: together, but on CUDA, where a norm of each is one kernel and keeps less."""
        counts, norms = (self.num_heads, self.num_kv_heads), (self.q_norm, self.k_norm)
        if qk_TXd.is_cuda and not torch.compiler.is_compiling():
            normed = [norm(part) for norm, part in zip(norms, qk_TXd.split(counts, 1), strict=True)]
            q_THd, k_TKd = (apply_rope(part, context.cos, context.sin) for part in normed)
            return q_THd, k_TKd
        weight_Xd = torch.cat([norm.weight.expand(count, -1) for norm, count in zip(norms, counts, strict=True)])
        q_THd, k_TKd = apply_rope(rms_norm(qk_TXd, weight_Xd, self.q_norm.eps), context.cos, context.sin).split(counts, 1)
        return q_THd, k_TKd


class Block(nn.Module):
    """Pre-norm block. Pixel tokens are modulated by time (adaLN, zero at initialisation) where the config says so.

    [T, D] -> [T, D], and the load-balancing loss of its pools, float32 (None where they are dense). While gradients are kept
    every pool is run, on no tokens too: each parameter then has a gradient on each rank, as sharding needs.
    """

    def __init__(self, config: DecoderConfig, pools: Sequence[Pool]) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = SelfAttention(config)
        self.ffn_norms = nn.ModuleDict({pool: RMSNorm(config.width, config.norm_eps) for pool in pools})
        self.pools = nn.ModuleDict({pool: build_pool(config) for pool in pools})
        self.modulation: nn.Linear | None = None
        if "pixel" in pools and config.time_conditioning == "adaln":
            self.modulation = nn.Linear(config.width, 6 * config.width)

    @compilable
    def forward(
        self, x_TD: Tensor, context: PackContext, time_BD: Tensor | None, cache: KVCache | None, commit: bool
    ) -> tuple[Tensor, Tensor | None]:
        modulation = None
        if self.modulation is not None and time_BD is not None:
            modulation = self.modulation(time_BD).chunk(6, -1)

        h_TD = self.attention_norm(x_TD)
        if modulation is not None:
            h_TD = _on_pixels(h_TD, context, scale_BD=modulation[0], shift_BD=modulation[1])
        h_TD = self.attention(h_TD, context, cache, commit)
        if modulation is not None:
            h_TD = _on_pixels(h_TD, context, scale_BD=modulation[2])
        x_TD = x_TD + h_TD
        del h_TD

        balances, parts = [], []
        for pool, part in self._by_pool(x_TD, context):
            h = self.ffn_norms[pool](part)
            if pool == "pixel" and modulation is not None:
                h = _modulate(h, context, modulation[3], modulation[4])
            h = self.pools[pool](h)
            if isinstance(h, tuple):
                h, balance = h
                balances.append(balance)
            if pool == "pixel" and modulation is not None:
                h = _modulate(h, context, modulation[5])
            parts.append(part + h)
        return parts[0] if len(parts) == 1 else torch.cat(parts), torch.stack(balances).sum() if balances else None

    def _by_pool(self, x_TD: Tensor, context: PackContext) -> list[tuple[Pool, Tensor]]:
        """The pools to run, each with its tokens."""
        every = torch.is_grad_enabled()
        if not every and x_TD.shape[0] in context.pool_sizes:  # a token that is decoded has one pool
            return [(POOLS[context.pool_sizes.index(x_TD.shape[0])], x_TD)]
        pairs = zip(POOLS, x_TD.split(list(context.pool_sizes)), strict=True)
        return [(pool, part) for pool, part in pairs if part.shape[0] or (every and pool in self.pools)]


def _on_pixels(h_TD: Tensor, context: PackContext, scale_BD: Tensor, shift_BD: Tensor | None = None) -> Tensor:
    """`_modulate` of a pack's pixel tokens, which are its last; the others stay."""
    others, pixels = h_TD.split([h_TD.shape[0] - context.pool_sizes[2], context.pool_sizes[2]])
    modulated = _modulate(pixels, context, scale_BD, shift_BD)
    return torch.cat([others, modulated]) if len(others) else modulated


def _modulate(h_PD: Tensor, context: PackContext, scale_BD: Tensor, shift_BD: Tensor | None = None) -> Tensor:
    """`(1 + scale) h + shift` of all pixel tokens, with one scale and shift for each sample that has pixels."""
    if not context.pixels:
        return h_PD  # no tokens
    samples = [count for _, count in context.pixels]
    parts = h_PD.split([count * length for length, count in context.pixels])
    scales, shifts = scale_BD.split(samples), None if shift_BD is None else shift_BD.split(samples)
    pieces = []
    for index, part in enumerate(parts):
        h_BPD = part.unflatten(0, (samples[index], -1))
        base = h_BPD if shifts is None else h_BPD + shifts[index][:, None]
        pieces.append(torch.addcmul(base, h_BPD, scales[index][:, None]).flatten(0, 1))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class MixtureOfTransformers(nn.Module):
    """The stack of blocks. [T, D] embeddings -> [T, D] hidden states before any final norm."""

    def __init__(self, config: DecoderConfig, pools: Sequence[Pool] = POOLS) -> None:
        super().__init__()
        self.config, self.num_pools = config, len(pools)
        self.blocks = nn.ModuleList([Block(config, pools) for _ in range(config.num_layers)])

    def forward(
        self,
        x_TD: Tensor,
        packed: PackedLayout | PackContext,
        time_BD: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        commit: bool = False,
        tap: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            x_TD: embeddings in the pack's storage order.
            packed: its layout, or its context where that is known.
            time_BD: time conditioning of each sample that has pixels, in the order of the pixel pool.
            caches: one KVCache a layer for the pack's single group; `commit` stores the fresh tokens in them.
            tap: number of blocks after which to tap the hidden states too; 0: the embeddings.

        Returns:
            Hidden states [T, D] after the last block, and at the tap; the mean load-balancing loss of all pools, float32 (0
            where they are dense).
        """
        context = packed
        if isinstance(context, PackedLayout):
            context = context_of(context, self.config, x_TD.dtype, x_TD.device)
        tapped_TD, balances = x_TD, list[Tensor]()
        for index, block in enumerate(self.blocks):
            x_TD, balance = block(x_TD, context, time_BD, caches[index] if caches else None, commit)
            balances += [] if balance is None else [balance]
            tapped_TD = x_TD if index + 1 == tap else tapped_TD
        mean = torch.stack(balances).mean() / self.num_pools if balances else torch.zeros((), device=x_TD.device)
        return x_TD, tapped_TD, mean

    def new_caches(self, count: int, room: int = 0) -> list[KVCache]:
        """Empty caches, one a layer, for `count` samples, with room for so many tokens. The room is zero: what a mask hides is
        multiplied by 0, which would not hide a NaN that memory happens to hold."""
        like = next(self.parameters())
        shape = (count, self.config.num_kv_heads, room, self.config.head_dim)
        return [KVCache(like.new_zeros(shape), like.new_zeros(shape), 0) for _ in self.blocks]
