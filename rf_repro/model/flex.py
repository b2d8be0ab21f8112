"""Attention of a pack of many different samples as one FlexAttention call, its mask made of blocks.

A pack of real data has nearly as many layouts as samples, so one call a layout would be hundreds of small kernels. The mask is
that of `PackedLayout.visibility`; which blocks of it are empty or full follows from the spans, so it is never built whole.

T packed tokens, H query heads, K key-value heads, d head_dim.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from rf_repro.model.layout import PackedLayout

BLOCK = 128  # tokens a side


def flex_attend(queries_THd: Tensor, keys_TKd: Tensor, values_TKd: Tensor, mask: BlockMask) -> Tensor:
    """What `rf_repro.model.attention.attend` gives for a pack without a cache, [T, H*d].

    Compiled on CUDA, alone or with the block that it is in. On a CPU it runs uncompiled, forward only, and makes all scores: for
    tests.

    Args:
        mask: the pack's `block_mask`.
    """
    T, H, _ = queries_THd.shape
    padding = mask.seq_lengths[0] - T
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, padding)).transpose(0, 1)[None] for x in (queries_THd, keys_TKd, values_TKd))
    attention: Any = _compiled() if queries_THd.is_cuda and not torch.compiler.is_compiling() else flex_attention
    out = attention(q, k, v, block_mask=mask, enable_gqa=keys_TKd.shape[1] < H)
    return out[0, :, :T].transpose(0, 1).flatten(1)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def block_mask(packed: PackedLayout, device: torch.device) -> BlockMask:
    """The mask of a pack, padded to whole blocks; padding tokens see each other alone, so that no row is empty."""
    touched, full = block_maps(packed)
    visibility = F.pad(packed.visibility, (0, touched.shape[0] * BLOCK - packed.num_tokens), value=-1)
    sample, place, last = visibility.to(device, torch.int32)

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (sample[q] == sample[k]) & (place[k] <= last[q])

    partial = _listed(touched & ~full, device)
    return BlockMask.from_kv_blocks(
        *partial, *_listed(full, device), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(visibility.shape[1],) * 2
    )


def block_maps(packed: PackedLayout) -> tuple[np.ndarray, np.ndarray]:
    """bool [query blocks, key blocks] twice: where some pair of tokens sees, and where it is known that every pair does."""
    count = -(-packed.num_tokens // BLOCK)
    touched, full = np.zeros((2, count, count), dtype=bool)
    if packed.num_tokens % BLOCK:
        touched[-1, -1] = True  # padding
    for index, group in enumerate(packed.groups):
        spans = list(enumerate(group.layout.spans))
        for sample in range(group.num_samples):
            rows = {number: _of_sample(packed.blocks[index, number], sample, group.num_samples) for number, _ in spans}
            for number, span in spans:
                own = rows[number]
                for earlier in range(number):
                    touched[_blocks(own), _blocks(rows[earlier])] = True
                    full[_inner(own), _inner(rows[earlier])] = True
                if span.is_causal:
                    for block in range(_blocks(own).start, _blocks(own).stop):
                        touched[block, _blocks(own).start : block + 1] = True
                        full[block : block + 1, _inner(own).start : min(block, _inner(own).stop)] |= block in _range(_inner(own))
                else:
                    touched[_blocks(own), _blocks(own)] = True
                    full[_inner(own), _inner(own)] = True
    return touched, full


def _of_sample(rows: slice, sample: int, num_samples: int) -> slice:
    length = (rows.stop - rows.start) // num_samples
    return slice(rows.start + sample * length, rows.start + (sample + 1) * length)


def _blocks(rows: slice) -> slice:
    """Blocks that hold some of the rows."""
    return slice(rows.start // BLOCK, -(-rows.stop // BLOCK) if rows.stop > rows.start else rows.start // BLOCK)


def _inner(rows: slice) -> slice:
    """Blocks that hold nothing but these rows."""
    return slice(-(-rows.start // BLOCK), max(rows.stop // BLOCK, -(-rows.start // BLOCK)))


def _range(blocks: slice) -> range:
    return range(blocks.start, blocks.stop)


def _listed(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each query block how many key blocks it has, int32 [1, 1, Q], and which, first in [1, 1, Q, K]."""
    counts = torch.from_numpy(blocks.sum(1)).to(device, torch.int32)
    indices = torch.from_numpy(np.argsort(~blocks, axis=1, kind="stable")).to(device, torch.int32)
    return counts[None, None], indices[None, None].contiguous()
