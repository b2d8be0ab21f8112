"""Attention over packed groups: by structure, with a KV cache for sampling.

Queries, keys and values are packed [T, heads, head_dim]; every group is attended to as one batch, never as a mask over
the whole pack. Packs of many layouts have one call of their own on CUDA (rf_repro.model.flex).

B samples, H query heads, K key-value heads, S fresh tokens, L all tokens of a sample, d head_dim.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.model.flex import flex_attend
from rf_repro.model.layout import PackedLayout, SampleLayout

# Measured: explicit bf16 matmuls beat the CPU's fused kernel four times below about a thousand tokens.
MAX_EXPLICIT_TOKENS = 1024
# On CUDA a pack of more layouts than `scenes` has is one FlexAttention call instead of a few calls each.
MAX_GROUPS_ONE_BY_ONE = 4


class KVCache:
    """Keys and values of one layer's prefix, [B, L, K, d]; grows as spans are committed."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The cached and the given keys and values in one row; the cache stays as it is."""
        return torch.cat([self.keys, keys], 1), torch.cat([self.values, values], 1)

    def commit(self, keys: Tensor, values: Tensor) -> None:
        """Replaces what is cached."""
        self.keys, self.values = keys, values

    def first(self, count: int) -> "KVCache":
        """The first `count` samples."""
        return KVCache(self.keys[:count], self.values[:count])

    def expand(self, count: int) -> "KVCache":
        """One sample, repeated without a copy."""
        return KVCache(self.keys.expand(count, -1, -1, -1), self.values.expand(count, -1, -1, -1))

    def to(self, device: torch.device) -> "KVCache":
        """The same there; itself where it is there already."""
        return KVCache(self.keys.to(device), self.values.to(device))

    @staticmethod
    def stack(first: "KVCache", second: "KVCache") -> "KVCache":
        """The samples of both."""
        return KVCache(torch.cat([first.keys, second.keys]), torch.cat([first.values, second.values]))


def attend(
    queries_THd: Tensor,
    keys_TKd: Tensor,
    values_TKd: Tensor,
    packed: PackedLayout,
    *,
    slopes_H: tuple[float, ...] | None = None,
    cache: KVCache | None = None,
    commit: bool = False,
) -> Tensor:
    """Attention of a pack, [T, H*d]. Paper: Sec. 3.2 (causal T and R, bidirectional P that sees T and R).

    Args:
        slopes_H: per-head slope of the distance bias from pixels to pixels and representation tokens (None: no bias).
        cache: keys and values of the `num_cached` tokens of the pack's single group.
        commit: whether the fresh tokens' keys and values stay in the cache.
    """
    if queries_THd.is_cuda and cache is None and slopes_H is None and len(packed.groups) > MAX_GROUPS_ONE_BY_ONE:
        return flex_attend(queries_THd, keys_TKd, values_TKd, packed)
    pieces: list[tuple[slice, Tensor]] = []
    for index, group in enumerate(packed.groups):
        layout, count = group.layout, group.num_samples
        blocks = [packed.blocks[index, span] for span in range(len(layout.spans))]
        blocks = [rows for rows in blocks if rows.stop > rows.start]
        if not blocks:
            continue

        def gather(tensor: Tensor, blocks: list[slice] = blocks, count: int = count) -> Tensor:
            parts = [tensor[rows].view(count, -1, *tensor.shape[1:]) for rows in blocks]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        q_BSHd, k_BLKd, v_BLKd = gather(queries_THd), gather(keys_TKd), gather(values_TKd)
        if cache is not None:
            k_BLKd, v_BLKd = cache.extended(k_BLKd, v_BLKd)
            if commit:
                cache.commit(k_BLKd, v_BLKd)
        if (q_BSHd.device.type == "cpu" and layout.length <= MAX_EXPLICIT_TOKENS) or slopes_H is not None:
            out_BSD = _explicit(q_BSHd, k_BLKd, v_BLKd, layout, slopes_H)
        else:
            out_BSD = _by_span(q_BSHd, k_BLKd, v_BLKd, layout)
        spans = out_BSD.split([(rows.stop - rows.start) // count for rows in blocks], dim=1)
        pieces += [(rows, span.flatten(0, 1)) for rows, span in zip(blocks, spans, strict=True)]
    pieces.sort(key=lambda piece: piece[0].start)
    return torch.cat([queries_THd[:0].flatten(1), *(piece for _, piece in pieces)])


@lru_cache(maxsize=64)
def attention_bias(
    layout: SampleLayout, slopes_H: tuple[float, ...] | None, groups: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Additive mask [1 or K, G*S, L] for queries folded as (query group, token); None where everything is allowed."""
    allowed = layout.may_attend()
    if slopes_H is None:
        if bool(allowed.all()):
            return None
        bias = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf")).repeat(groups, 1)[None]
    else:
        slopes = torch.tensor(slopes_H)[:, None, None]
        bias = (-slopes * layout.pixel_distances()).masked_fill(~allowed, float("-inf"))  # [H, S, L]
        bias = bias.view(-1, groups * allowed.shape[0], allowed.shape[1])  # heads of one key-value head are adjacent
    return bias.to(device, dtype)


def _explicit(q_BSHd: Tensor, k_BLKd: Tensor, v_BLKd: Tensor, layout: SampleLayout, slopes_H: tuple[float, ...] | None) -> Tensor:
    """Matmul, softmax, matmul in the input's dtype. The query heads that share a key-value head are folded into its rows."""
    B, S, H, d = q_BSHd.shape
    L, K = k_BLKd.shape[1:3]
    G = H // K
    q = q_BSHd.view(B, S, K, G, d).permute(0, 2, 3, 1, 4).reshape(B * K, G * S, d)
    k = k_BLKd.permute(0, 2, 3, 1).reshape(B * K, d, L)
    v = v_BLKd.transpose(1, 2).reshape(B * K, L, d)
    bias = attention_bias(layout, slopes_H, G, q.dtype, q.device)
    if bias is None:
        scores = torch.bmm(q * d**-0.5, k)
    else:
        scores = torch.baddbmm(bias.expand(B, K, G * S, L).reshape(B * K, G * S, L), q, k, alpha=d**-0.5)
    out = torch.bmm(scores.softmax(-1), v)
    return out.view(B, K, G, S, d).permute(0, 3, 1, 2, 4).reshape(B, S, H * d)


def _by_span(q_BSHd: Tensor, k_BLKd: Tensor, v_BLKd: Tensor, layout: SampleLayout) -> Tensor:
    """One fused call a run of spans, none of which needs a dense mask: causal runs end at their last key, others see all
    the visible keys before them and their own."""
    from torch.nn.attention.bias import causal_lower_right  # its import takes as long as all of torch, and few come by

    q, k, v = (tensor.transpose(1, 2) for tensor in (q_BSHd, k_BLKd, v_BLKd))
    outputs = []
    for first, stop, is_causal, key_stop in _runs(layout):
        own_q = q[:, :, first - layout.num_cached : stop - layout.num_cached]
        own_k, own_v = k[:, :, :key_stop], v[:, :, :key_stop]
        mask = causal_lower_right(own_q.shape[2], key_stop) if is_causal and own_q.shape[2] > 1 else None
        outputs.append(F.scaled_dot_product_attention(own_q, own_k, own_v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]))
    return torch.cat(outputs, 2).transpose(1, 2).flatten(2)


def _runs(layout: SampleLayout) -> list[tuple[int, int, bool, int]]:
    """(first fresh token, stop, causal, last visible key + 1) of maximal runs of spans that share one call."""
    runs: list[tuple[int, int, bool, int]] = []
    for (start, stop), span in zip(layout.bounds, layout.spans, strict=True):
        first = max(start, layout.num_cached)
        if first >= stop:
            continue
        if not span.is_visible_later and stop != layout.length:
            raise ValueError(f"a {span.kind} span must be the last: later tokens may not see it")
        if runs and runs[-1][2] and span.is_causal:
            runs[-1] = (runs[-1][0], stop, True, stop)
        else:
            runs.append((first, stop, span.is_causal, stop))
    return runs
