"""Block-diagonal attention: many images in one sequence, each of which sees itself alone (NaViT, arXiv 2307.06304).

T tokens of the pack, S images, H heads, d head_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

VARLEN_DTYPES = (torch.bfloat16, torch.float16)  # FlashAttention's
VARLEN_MAX_HEAD_DIM = 256


@dataclass(frozen=True, eq=False)
class Segments:
    """Which rows of a pack are one image.

    A pack is stored as blocks one after the other, each with some tokens of every image in turn (say all images' class and
    register tokens, then all images' patches), so that an image's rows need not be adjacent. Attention takes them in the
    order of `rows`: images from the shortest to the longest, each in one piece.

    Attributes:
        lengths: tokens of each image, ascending.
        rows: int64 [T], the stored row of every token in that order; None where the two orders are one.
        inverse: int64 [T], the way back.
        bounds: int32 [S + 1], where images start and end in that order.
    """

    lengths: tuple[int, ...]
    rows: Tensor | None
    inverse: Tensor | None
    bounds: Tensor

    @staticmethod
    def of(*blocks: Sequence[int], device: torch.device | str = "cpu") -> "Segments":
        """From the tokens of each image in each block: `Segments.of([5, 5], [64, 96])` are two images, of 69 and 101 tokens
        in rows 0-4 and 10-73, and 5-9 and 74-169."""
        lengths = [sum(parts) for parts in zip(*blocks, strict=True)]
        order = sorted((image for image, length in enumerate(lengths) if length), key=lambda image: lengths[image])
        starts = list(accumulate((length for block in blocks for length in block), initial=0))
        pieces = [
            torch.arange(starts[index * len(lengths) + image], starts[index * len(lengths) + image] + block[image], device="cpu")
            for image in order
            for index, block in enumerate(blocks)
        ]
        rows = torch.cat(pieces) if pieces else torch.arange(0, device="cpu")
        bounds = torch.tensor(list(accumulate((lengths[image] for image in order), initial=0)), dtype=torch.int32, device="cpu")
        in_order = bool((rows == torch.arange(len(rows), device="cpu")).all())
        return Segments(
            tuple(lengths[image] for image in order),
            None if in_order else rows.to(device),
            None if in_order else rows.argsort().to(device),
            bounds.to(device),
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


def segment_attention(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, segments: Segments) -> Tensor:
    """Bidirectional attention within each image, [T, H, d], rows as they are stored; scores are scaled by d^-0.5.

    On CUDA in bf16 and fp16 one FlashAttention call over all images; elsewhere (the CPU, fp32) one SDPA call for all images
    of one length. Nothing is padded, and no mask is made.
    """
    if not segments.lengths:
        return q_THd + k_THd + v_THd  # no tokens; the sum keeps all three in the graph
    if segments.rows is not None:
        q_THd, k_THd, v_THd = (tensor.index_select(0, segments.rows) for tensor in (q_THd, k_THd, v_THd))
    attend = _varlen if _has_varlen(q_THd) else _by_length
    out_THd = attend(q_THd, k_THd, v_THd, segments)
    return out_THd if segments.inverse is None else out_THd.index_select(0, segments.inverse)


def _has_varlen(q_THd: Tensor) -> bool:
    head_dim = q_THd.shape[-1]
    return (
        q_THd.device.type == "cuda"
        and q_THd.dtype in VARLEN_DTYPES
        and head_dim % 8 == 0
        and head_dim <= VARLEN_MAX_HEAD_DIM
        and torch.cuda.get_device_capability(q_THd.device) >= (8, 0)
    )


def _varlen(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, segments: Segments) -> Tensor:
    bounds, longest = segments.bounds, segments.lengths[-1]
    out = varlen_attn(q_THd, k_THd, v_THd, bounds, bounds, longest, longest)
    assert isinstance(out, Tensor)  # a pair only where the log-sum-exp is asked for
    return out


def _by_length(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, segments: Segments) -> Tensor:
    outputs, start = [], 0
    for length, run in groupby(segments.lengths):
        stop = start + length * len(list(run))
        q, k, v = (tensor[start:stop].unflatten(0, (-1, length)).transpose(1, 2) for tensor in (q_THd, k_THd, v_THd))
        outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(outputs)
