"""The Mixture-of-Transformers decoder (paper Sec. 3.3, after BAGEL): shared self-attention, and a feed-forward pool for
each type of token. With one pool it is exactly a Qwen3 decoder.

T packed tokens, D width, H query heads, K key-value heads, d head_dim.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.maths.layers import RMSNorm, apply_rope, rope_tables
from rf_repro.model.attention import KVCache, attend
from rf_repro.model.experts import build_pool
from rf_repro.model.layout import POOLS, PackedLayout, Pool

# Attention to far pixels falls by these per patch in the heads in turn; the last head sees everything alike.
DISTANCE_SLOPES = (1.5, 0.6, 0.2, 0.0)


class SelfAttention(nn.Module):
    """Grouped-query attention with q/k norm and rotary positions (Qwen3). Query, key and value are one matrix."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.qkv = nn.Linear(config.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(self.num_heads * self.head_dim, config.width, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps)
        self.slopes = None
        if config.distance_bias:
            self.slopes = tuple(DISTANCE_SLOPES[head % len(DISTANCE_SLOPES)] for head in range(config.num_heads))

    def forward(
        self, x_TD: Tensor, packed: PackedLayout, rope: tuple[Tensor, Tensor], cache: KVCache | None, commit: bool
    ) -> Tensor:
        heads = self.qkv(x_TD).view(x_TD.shape[0], -1, self.head_dim)
        q_THd, k_TKd, v_TKd = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], 1)
        q_THd = apply_rope(self.q_norm(q_THd), *rope)
        k_TKd = apply_rope(self.k_norm(k_TKd), *rope)
        return self.out(attend(q_THd, k_TKd, v_TKd, packed, slopes_H=self.slopes, cache=cache, commit=commit))


class Block(nn.Module):
    """Pre-norm block. Pixel tokens are modulated by time (adaLN, zero at initialisation) where the config says so.

    [T, D] -> [T, D], and the load-balancing loss of its pools, float32 (0 where they are dense). While gradients are kept every
    pool is run, on no tokens too: each parameter then has a gradient on each rank, as sharding needs.
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

    def forward(
        self,
        x_TD: Tensor,
        packed: PackedLayout,
        rope: tuple[Tensor, Tensor],
        time_BD: Tensor | None,
        cache: KVCache | None,
        commit: bool,
    ) -> tuple[Tensor, Tensor]:
        modulation = None
        if self.modulation is not None and time_BD is not None:
            modulation = self.modulation(time_BD).chunk(6, -1)

        h_TD = self.attention_norm(x_TD)
        if modulation is not None:
            h_TD = _on_pixels(h_TD, packed, scale_BD=modulation[0], shift_BD=modulation[1])
        h_TD = self.attention(h_TD, packed, rope, cache, commit)
        if modulation is not None:
            h_TD = _on_pixels(h_TD, packed, scale_BD=modulation[2])
        x_TD = x_TD + h_TD

        h_TD = torch.cat([self.ffn_norms[pool](part) for pool, part in self._by_pool(x_TD, packed)])
        if modulation is not None:
            h_TD = _on_pixels(h_TD, packed, scale_BD=modulation[3], shift_BD=modulation[4])
        balance = x_TD.new_zeros((), dtype=torch.float32)
        parts = []
        for pool, part in self._by_pool(h_TD, packed):
            result = self.pools[pool](part)
            if isinstance(result, tuple):
                balance = balance + result[1]
            parts.append(result[0] if isinstance(result, tuple) else result)
        h_TD = torch.cat(parts)
        if modulation is not None:
            h_TD = _on_pixels(h_TD, packed, scale_BD=modulation[5])
        return x_TD + h_TD, balance

    def _by_pool(self, x_TD: Tensor, packed: PackedLayout) -> list[tuple[Pool, Tensor]]:
        """The pools to run, each with its tokens."""
        pairs = zip(POOLS, x_TD.split(list(packed.pool_sizes)), strict=True)
        return [(pool, part) for pool, part in pairs if part.shape[0] or (pool in self.pools and torch.is_grad_enabled())]


def _on_pixels(h_TD: Tensor, packed: PackedLayout, scale_BD: Tensor, shift_BD: Tensor | None = None) -> Tensor:
    """`(1 + scale) h + shift` on pixel tokens, with one scale and shift for each sample that has pixels."""
    pieces, first = [h_TD[: h_TD.shape[0] - packed.pool_sizes[2]]], 0
    for index, group in enumerate(packed.groups):
        if not group.num_samples or not any(span.kind == "pixel" for span in group.layout.spans):
            continue
        count = group.num_samples
        h_BPD = h_TD[packed.rows("pixel", index)].view(count, -1, h_TD.shape[1])
        samples = slice(first, first + count)
        base = h_BPD if shift_BD is None else h_BPD + shift_BD[samples, None]
        pieces.append(torch.addcmul(base, h_BPD, scale_BD[samples, None]).flatten(0, 1))
        first += count
    return torch.cat(pieces)


@lru_cache(maxsize=64)
def _rope(packed: PackedLayout, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return rope_tables(packed.positions().to(device), head_dim, theta, dtype)


class MixtureOfTransformers(nn.Module):
    """The stack of blocks. [T, D] embeddings -> [T, D] hidden states before any final norm."""

    def __init__(self, config: DecoderConfig, pools: Sequence[Pool] = POOLS) -> None:
        super().__init__()
        self.config, self.num_pools = config, len(pools)
        self.blocks = nn.ModuleList([Block(config, pools) for _ in range(config.num_layers)])

    def forward(
        self,
        x_TD: Tensor,
        packed: PackedLayout,
        time_BD: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        commit: bool = False,
        tap: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            x_TD: embeddings in the pack's storage order.
            time_BD: time conditioning of each sample that has pixels, in the order of the pixel pool.
            caches: one KVCache a layer for the pack's single group; `commit` stores the fresh tokens in them.
            tap: number of blocks after which to tap the hidden states too; 0: the embeddings.

        Returns:
            Hidden states [T, D] after the last block, and at the tap; the mean load-balancing loss of all pools, float32 (0
            where they are dense).
        """
        rope = _rope(packed, self.config.head_dim, self.config.rope_theta, x_TD.dtype, x_TD.device)
        tapped_TD, balances = x_TD, []
        for index, block in enumerate(self.blocks):
            x_TD, balance = block(x_TD, packed, rope, time_BD, caches[index] if caches else None, commit)
            balances.append(balance)
            tapped_TD = x_TD if index + 1 == tap else tapped_TD
        return x_TD, tapped_TD, torch.stack(balances).mean() / self.num_pools

    def new_caches(self, count: int) -> list[KVCache]:
        """Empty caches, one a layer, for `count` samples."""
        like = next(self.parameters())
        empty = like.new_empty(count, 0, self.config.num_kv_heads, self.config.head_dim)
        return [KVCache(empty, empty) for _ in self.blocks]
