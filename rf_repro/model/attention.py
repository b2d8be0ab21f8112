"""Attention over packed groups: by structure, with a KV cache for sampling.

Queries, keys and values are packed [T, heads, head_dim]; every group is attended to as one batch, never as a mask over
the whole pack. Packs of many layouts have one call of their own on CUDA (rf_repro.model.flex).

B samples, H query heads, K key-value heads, S fresh tokens, L all tokens of a sample, d head_dim.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.maths.layers import rope_tables
from rf_repro.model.flex import block_mask, flex_attend
from rf_repro.model.layout import POOLS, PackedLayout, SampleLayout

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# Measured: explicit bf16 matmuls beat the CPU's fused kernel four times below about a thousand tokens.
MAX_EXPLICIT_TOKENS = 1024
# On CUDA a pack of more layouts than `scenes` has is one FlexAttention call instead of a few calls each.
MAX_GROUPS_ONE_BY_ONE = 4
# Attention to far pixels falls by these per patch in the heads in turn; the last head sees everything alike.
DISTANCE_SLOPES = (1.5, 0.6, 0.2, 0.0)

Run = tuple[int, int, bool, int]  # first fresh token, stop, causal, last visible key + 1


class GroupContext(NamedTuple):
    """Where one group's fresh tokens are, and whom they see.

    Attributes:
        spans: which of the stored spans are its own, in the order of the sequence.
        num_samples: of the group.
        bias: additive mask of explicit attention, [1 or K, G*S, L] for queries folded as (query group, token); None where all
            is seen alike.
        runs: calls of fused attention, counted from the first fresh token; None: explicit attention.
    """

    spans: tuple[int, ...]
    num_samples: int
    bias: Tensor | None
    runs: tuple[Run, ...] | None


class PackContext(NamedTuple):
    """What all blocks need to know of a pack, made once, of plain numbers and tensors: a compiler can trace what reads it.

    Attributes:
        cos, sin: rotary tables of its tokens, each [T, 1 or H+K, d].
        pool_sizes: tokens of each pool, in the order of POOLS.
        sizes: tokens of each span of each group, as they are stored.
        groups: those with tokens.
        pixels: (tokens a sample, samples) of each group with pixels.
        block_mask: of FlexAttention, in place of the groups' own attention.
    """

    cos: Tensor
    sin: Tensor
    pool_sizes: tuple[int, ...]
    sizes: tuple[int, ...]
    groups: tuple[GroupContext, ...]
    pixels: tuple[tuple[int, int], ...]
    block_mask: "BlockMask | None"


def make_context(packed: PackedLayout, config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> PackContext:
    """The context of a pack on a device, for activations of a dtype."""
    slopes_H = None
    if config.distance_bias:
        slopes_H = tuple(DISTANCE_SLOPES[head % len(DISTANCE_SLOPES)] for head in range(config.num_heads))
    cos, sin = rope_tables(packed.positions().to(device), config.head_dim, config.rope_theta, dtype)
    if device.type == "cpu":
        cos, sin = (over_heads(table, config.num_heads + config.num_kv_heads) for table in (cos, sin))
    is_one_call = (
        device.type == "cuda"
        and slopes_H is None
        and len(packed.groups) > MAX_GROUPS_ONE_BY_ONE
        and not any(group.layout.num_cached for group in packed.groups)
    )
    stored = {key: rows.stop - rows.start for key, rows in packed.blocks.items() if rows.stop > rows.start}
    numbers = {key: number for number, key in enumerate(stored)}
    groups, pixels = [], []
    for index, group in enumerate(packed.groups):
        spans = tuple(numbers[index, span] for span in range(len(group.layout.spans)) if (index, span) in numbers)
        if any(span.kind == "pixel" for span in group.layout.spans) and group.num_samples:
            rows = packed.rows("pixel", index)
            pixels.append(((rows.stop - rows.start) // group.num_samples, group.num_samples))
        if not spans or is_one_call:
            continue
        explicit = (device.type == "cpu" and group.layout.length <= MAX_EXPLICIT_TOKENS) or slopes_H is not None
        bias = _bias(group.layout, slopes_H, config.num_heads // config.num_kv_heads) if explicit else None
        runs = None if explicit else fused_runs(group.layout)
        groups.append(GroupContext(spans, group.num_samples, None if bias is None else bias.to(device, dtype), runs))
    mask = block_mask(packed, device) if is_one_call else None
    return PackContext(cos, sin, packed.pool_sizes, tuple(stored.values()), tuple(groups), tuple(pixels), mask)


def over_heads(table_T1d: Tensor, heads: int) -> Tensor:
    """A table for each head, [T, heads, d]: loops of a CPU over single heads are three times slower than one over all."""
    return table_T1d.repeat(1, heads, 1)


context_of = lru_cache(maxsize=16)(make_context)  # of a step's packs, and of what is sampled between


@lru_cache(maxsize=4)
def token_contexts(
    layout: SampleLayout, num_samples: int, config: DecoderConfig, dtype: torch.dtype, device: torch.device
) -> tuple[PackContext, ...]:
    """Of a layout's last span, which is causal: the context of each of its fresh tokens alone, one after another."""
    span = layout.spans[-1]
    assert span.is_causal
    assert layout.num_fresh <= span.length
    sizes = tuple(num_samples if pool == span.pool else 0 for pool in POOLS)
    cos, sin = rope_tables(layout.positions().to(device), config.head_dim, config.rope_theta, dtype)
    found = []
    for index in range(layout.num_fresh):
        runs = None if device.type == "cpu" else ((0, 1, True, layout.num_cached + index + 1),)
        at = slice(index, index + 1)  # of all samples alike
        group = GroupContext((0,), num_samples, None, runs)
        found.append(PackContext(cos[at], sin[at], sizes, (num_samples,), (group,), (), None))
    return tuple(found)


def context_at(contexts: Sequence[PackContext], place: Tensor, first: int, room: int, config: DecoderConfig) -> PackContext:
    """The one of `token_contexts` that is for a place, int64 [1], which the host need not know; `first` is that of the first of
    them. Keys are all that caches have room for."""
    cos, sin = (torch.cat(tables).index_select(0, place - first) for tables in list(zip(*contexts, strict=True))[:2])
    hidden = torch.arange(room, device=place.device) > place
    bias = torch.zeros(room, dtype=cos.dtype, device=place.device).masked_fill(hidden, float("-inf"))
    (group,) = contexts[0].groups
    seen = group._replace(bias=bias.expand(1, config.num_heads // config.num_kv_heads, room), runs=None)
    return contexts[0]._replace(cos=cos, sin=sin, groups=(seen,))


class KVCache:
    """Keys and values of one layer: [B, K, capacity, d], of which the first `length` tokens are kept.

    What is committed is written behind them, so that nothing kept is copied; room is made where there is none. Where `place`,
    int64 [1], is given, what is committed goes there instead, and all of the capacity is seen.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int | None = None) -> None:
        self.keys, self.values = keys, values
        self.length = keys.shape[2] if length is None else length
        self.place: Tensor | None = None

    def extended(self, keys_BSKd: Tensor, values_BSKd: Tensor, commit: bool) -> tuple[Tensor, Tensor]:
        """The kept and the given keys and values in one row, [B, K, L, d]; `commit` keeps them."""
        fresh = keys_BSKd.transpose(1, 2), values_BSKd.transpose(1, 2)
        if self.place is not None:
            for whole, part in zip((self.keys, self.values), fresh, strict=True):
                whole.index_copy_(2, self.place, part)
            return self.keys, self.values
        start, stop = self.length, self.length + keys_BSKd.shape[1]
        if not commit or stop > self.keys.shape[2]:
            keys, values = (torch.cat(pair, 2) for pair in zip(self._kept(), fresh, strict=True))
            if commit:
                self.keys, self.values, self.length = keys, values, stop
            return keys, values
        for whole, part in zip((self.keys, self.values), fresh, strict=True):
            whole[:, :, start:stop] = part
        self.length = stop
        return self._kept()

    def _kept(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def first(self, count: int) -> "KVCache":
        """The first `count` samples; shares memory."""
        return KVCache(self.keys[:count], self.values[:count], self.length)

    def to(self, device: torch.device) -> "KVCache":
        """What is kept, there; itself where it is there already."""
        if self.keys.device == device:
            return self
        keys, values = self._kept()
        return KVCache(keys.to(device), values.to(device))

    @staticmethod
    def stack(first: "KVCache", second: "KVCache", repeats: int, room: int = 0) -> "KVCache":
        """The samples of one, and those of the other `repeats` times; with room for so many more tokens."""
        pairs = zip(first._kept(), second._kept(), strict=True)
        stacked = (torch.cat([own, *[other] * repeats]) for own, other in pairs)
        keys, values = (F.pad(part, (0, 0, 0, room)) if room else part for part in stacked)
        return KVCache(keys, values, first.length)


def attend(
    queries_THd: Tensor,
    keys_TKd: Tensor,
    values_TKd: Tensor,
    context: PackContext,
    cache: KVCache | None = None,
    commit: bool = False,
) -> Tensor:
    """Attention of a pack, [T, H*d]. Paper: Sec. 3.2 (causal T and R, bidirectional P that sees T and R).

    Args:
        cache: keys and values of the `num_cached` tokens of the pack's single group.
        commit: whether the fresh tokens' keys and values stay in the cache.
    """
    if context.block_mask is not None:
        return flex_attend(queries_THd, keys_TKd, values_TKd, context.block_mask)
    # Split once, and not sliced: the gradient is then one concatenation, and not a sum of as many padded ones.
    heads = (queries_THd, keys_TKd, values_TKd)
    stored = [(one,) if len(context.sizes) == 1 else one.split(list(context.sizes)) for one in heads]
    outputs: dict[int, Tensor] = {}
    for group in context.groups:
        q_BSHd, k_BLKd, v_BLKd = (_of_group(spans, group) for spans in stored)
        if cache is None:
            k_BKLd, v_BKLd = k_BLKd.transpose(1, 2), v_BLKd.transpose(1, 2)
        else:
            k_BKLd, v_BKLd = cache.extended(k_BLKd, v_BLKd, commit)
        if group.runs is None:
            out_BSD = explicit_attention(q_BSHd, k_BKLd, v_BKLd, group.bias)
        else:
            out_BSD = fused_attention(q_BSHd, k_BKLd, v_BKLd, group.runs)
        del q_BSHd, k_BLKd, v_BLKd, k_BKLd, v_BKLd  # what follows copies the result twice
        if len(group.spans) == 1:
            outputs[group.spans[0]] = out_BSD
            continue
        lengths = [context.sizes[span] // group.num_samples for span in group.spans]
        outputs |= zip(group.spans, out_BSD.split(lengths, 1), strict=True)
    if not outputs:
        return queries_THd.flatten(1)  # no tokens
    parts = [outputs[span].flatten(0, 1) for span in range(len(context.sizes))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _of_group(stored: Sequence[Tensor], group: GroupContext) -> Tensor:
    """A group's tokens, sample by sample: [B, S, X, d]."""
    parts = [stored[span].unflatten(0, (group.num_samples, -1)) for span in group.spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _bias(layout: SampleLayout, slopes_H: tuple[float, ...] | None, groups: int) -> Tensor | None:
    """Additive mask float32 [1 or K, G*S, L]; None where everything is allowed, and no head minds the distance."""
    allowed = layout.may_attend()
    distances = layout.pixel_distances() if slopes_H is not None else torch.zeros(())
    if bool(allowed.all()) and not bool(distances.any()):
        return None
    if slopes_H is None:
        return torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf")).repeat(groups, 1)[None]
    bias = (-torch.tensor(slopes_H)[:, None, None] * distances).masked_fill(~allowed, float("-inf"))  # [H, S, L]
    return bias.view(-1, groups * allowed.shape[0], allowed.shape[1])  # heads of one key-value head are adjacent


def explicit_attention(q_BSHd: Tensor, k_BKLd: Tensor, v_BKLd: Tensor, bias: Tensor | None) -> Tensor:
    """Matmul, softmax, matmul in the input's dtype: [B, S, H*d]. The query heads that share a key-value head are folded into
    its rows."""
    B, S, H, d = q_BSHd.shape
    K, L = k_BKLd.shape[1:3]
    G = H // K
    q = q_BSHd.unflatten(2, (K, G)).permute(0, 2, 3, 1, 4).reshape(B * K, G * S, d)
    k, v = k_BKLd.reshape(B * K, L, d).transpose(1, 2), v_BKLd.reshape(B * K, L, d)
    if bias is None:
        scores = torch.bmm(q * d**-0.5, k)
    else:
        scores = torch.baddbmm(bias.expand(B, K, G * S, L).reshape(B * K, G * S, L), q, k, alpha=d**-0.5)
    out = torch.bmm(scores.softmax(-1), v)
    return out.view(B, K, G, S, d).permute(0, 3, 1, 2, 4).reshape(B, S, H * d)


def fused_attention(q_BSHd: Tensor, k_BKLd: Tensor, v_BKLd: Tensor, runs: tuple[Run, ...]) -> Tensor:
    """One fused call a run of spans, none of which needs a dense mask: causal runs end at their last key, others see all
    the visible keys before them and their own. [B, S, H*d]."""
    from torch.nn.attention.bias import causal_lower_right  # its import takes as long as all of torch, and few come by

    q_BHSd, outputs = q_BSHd.transpose(1, 2), []
    for first, stop, is_causal, key_stop in runs:
        own_q, own_k, own_v = q_BHSd[:, :, first:stop], k_BKLd[:, :, :key_stop], v_BKLd[:, :, :key_stop]
        mask = causal_lower_right(stop - first, key_stop) if is_causal and stop - first > 1 else None
        out_BHSd = F.scaled_dot_product_attention(
            own_q, own_k, own_v, attn_mask=mask, enable_gqa=q_BSHd.shape[2] != k_BKLd.shape[1]
        )
        outputs.append(out_BHSd.transpose(1, 2))  # as kernels lay it out: what is joined is then not copied again
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)).flatten(2)


def fused_runs(layout: SampleLayout) -> tuple[Run, ...]:
    """Maximal runs of spans that share one call.

    Raises:
        ValueError: a span that later ones may not see is not the last.
    """
    runs: list[Run] = []
    for (start, stop), span in zip(layout.bounds, layout.spans, strict=True):
        first = max(start, layout.num_cached) - layout.num_cached
        if first >= stop - layout.num_cached:
            continue
        if not span.is_visible_later and stop != layout.length:
            raise ValueError(f"a {span.kind} span must be the last: later tokens may not see it")
        if runs and runs[-1][2] and span.is_causal:
            runs[-1] = (runs[-1][0], stop - layout.num_cached, True, stop)
        else:
            runs.append((first, stop - layout.num_cached, span.is_causal, stop))
    return tuple(runs)
