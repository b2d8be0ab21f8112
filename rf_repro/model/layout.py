"""What a packed sequence is made of, and who attends to whom (paper Sec. 3.2, Fig. 3).

A sample is a row of spans: `[text | representation | pixel]` to generate, `[image | text]` to understand. Samples with
the same spans form a group; a pack holds several groups. Tokens are stored pool by pool, then group by group, span by
span, sample by sample, so that each expert pool sees one contiguous slice and each span of a group is one view [B, L].

T tokens of a pack, B samples of a group, S tokens of one sample, L tokens of one span.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from rf_repro.maths.layers import Grid

SpanKind = Literal["text", "image", "representation", "pixel"]
Pool = Literal["understanding", "representation", "pixel"]

POOLS: tuple[Pool, ...] = ("understanding", "representation", "pixel")
POOL_OF: dict[SpanKind, Pool] = {
    "text": "understanding", "image": "understanding", "representation": "representation", "pixel": "pixel",
}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A run of tokens of one kind. Its last rows*columns tokens lie on `grid`; (0, 0): none do."""

    kind: SpanKind
    length: int
    grid: Grid = (0, 0)

    @property
    def pool(self) -> Pool:
        return POOL_OF[self.kind]

    @property
    def is_causal(self) -> bool:
        """Text and representation tokens are causal; pixels and image features (assumed, after BAGEL) bidirectional."""
        return self.kind in ("text", "representation")

    @property
    def is_visible_later(self) -> bool:
        """Noisy pixels are never attended to from outside: T and R never see P."""
        return self.kind != "pixel"


@dataclass(frozen=True)
class SampleLayout:
    """The spans of one sample, in sequence order. The first `num_cached` tokens already lie in a KV cache; the others
    are fresh: they are the ones a pack stores and the model computes."""

    spans: tuple[Span, ...]
    num_cached: int = 0

    @cached_property
    def length(self) -> int:
        """Tokens of the sample, cached ones included."""
        return sum(span.length for span in self.spans)

    @property
    def num_fresh(self) -> int:
        return self.length - self.num_cached

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each span in the sample."""
        stops = list(accumulate(span.length for span in self.spans))
        return tuple((stop - span.length, stop) for stop, span in zip(stops, self.spans, strict=True))

    @cached_property
    def fresh_bounds(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each span's fresh tokens, counted from the first fresh token; empty where all are cached."""
        return tuple(
            (max(start - self.num_cached, 0), max(stop - self.num_cached, 0)) for start, stop in self.bounds
        )  # fmt: skip

    def positions(self) -> Tensor:
        """RoPE index of each fresh token, int64 [num_fresh]: consecutive for text and representation tokens, one index
        for all the tokens of an image (assumed, after BAGEL: they carry 2D embeddings instead)."""
        result: list[int] = []
        start = 0
        for span in self.spans:
            result += range(start, start + span.length) if span.is_causal else [start] * span.length
            start += span.length if span.is_causal else 1
        return torch.tensor(result[self.num_cached :])

    def may_attend(self) -> Tensor:
        """bool [num_fresh, length]: True where the row's token attends to the column's."""
        allowed = torch.zeros(self.length, self.length, dtype=torch.bool)
        for (start, stop), span in zip(self.bounds, self.spans, strict=True):
            own = torch.ones(span.length, span.length, dtype=torch.bool)
            allowed[start:stop, start:stop] = own.tril() if span.is_causal else own
            if span.is_visible_later:
                allowed[stop:, start:stop] = True
        return allowed[self.num_cached :]

    def pixel_distances(self) -> Tensor:
        """Distances, float32 [num_fresh, length], from pixel tokens to representation and pixel tokens, in patches.

        The two grids span one image. All other pairs, and tokens without a place, have 0.
        """
        distances = torch.zeros(self.length, self.length)
        for (row_start, row_stop), row_span in zip(self.bounds, self.spans, strict=True):
            if row_span.kind != "pixel":
                continue
            rows, patches = _grid_centres(row_span.grid), torch.tensor(row_span.grid)
            for (_, stop), span in zip(self.bounds, self.spans, strict=True):
                if span.grid != (0, 0):
                    columns = slice(stop - span.grid[0] * span.grid[1], stop)
                    distances[row_start:row_stop, columns] = torch.cdist(rows * patches, _grid_centres(span.grid) * patches)
        return distances[self.num_cached :]


def _grid_centres(grid: Grid) -> Tensor:
    """Centres of the cells, [rows * columns, 2], of a grid over the unit square."""
    rows, columns = ((torch.arange(count) + 0.5) / count for count in grid)
    return torch.cartesian_prod(rows, columns)


@dataclass(frozen=True)
class Group:
    """`num_samples` samples of one layout."""

    layout: SampleLayout
    num_samples: int


@dataclass(frozen=True)
class PackedLayout:
    """Where every token of a pack is stored. Hashable, so what follows from it is computed once."""

    groups: tuple[Group, ...]

    @cached_property
    def blocks(self) -> dict[tuple[int, int], slice]:
        """(group index, span index) -> the rows of that span's tokens, sample by sample."""
        blocks: dict[tuple[int, int], slice] = {}
        row = 0
        for pool in POOLS:
            for group_index, group in enumerate(self.groups):
                for span_index, span in enumerate(group.layout.spans):
                    if span.pool == pool:
                        first, stop = group.layout.fresh_bounds[span_index]
                        count = group.num_samples * (stop - first)
                        blocks[group_index, span_index] = slice(row, row + count)
                        row += count
        return blocks

    @cached_property
    def pool_sizes(self) -> tuple[int, ...]:
        """Tokens of each pool, in the order of POOLS."""
        sizes = dict.fromkeys(POOLS, 0)
        for (group_index, span_index), rows in self.blocks.items():
            sizes[self.groups[group_index].layout.spans[span_index].pool] += rows.stop - rows.start
        return tuple(sizes.values())

    @property
    def num_tokens(self) -> int:
        return sum(self.pool_sizes)

    @cached_property
    def visibility(self) -> Tensor:
        """What attention follows from, int64 [3, T]: each stored token's sample, its place in the sample's sequence, and the
        place of the last token it sees there. A token sees those of its sample up to that place: pixels, which nothing outside
        may see, are always last."""
        result = torch.empty(3, self.num_tokens, dtype=torch.int64)
        first = 0
        for group_index, group in enumerate(self.groups):
            samples = torch.arange(first, first + group.num_samples)
            for span_index, (start, stop) in enumerate(group.layout.bounds):
                span, rows = group.layout.spans[span_index], self.blocks[group_index, span_index]
                assert span.is_visible_later or stop == group.layout.length
                places = torch.arange(min(max(start, group.layout.num_cached), stop), stop)
                last = places if span.is_causal else torch.full_like(places, stop - 1)
                result[0, rows] = samples.repeat_interleave(len(places))
                result[1, rows], result[2, rows] = places.repeat(group.num_samples), last.repeat(group.num_samples)
            first += group.num_samples
        return result

    def rows(self, kind: SpanKind, group_index: int) -> slice:
        """The rows of the group's span of that kind."""
        for span_index, span in enumerate(self.groups[group_index].layout.spans):
            if span.kind == kind:
                return self.blocks[group_index, span_index]
        raise KeyError(f"group {group_index} has no {kind} span")

    def positions(self) -> Tensor:
        """RoPE index of every stored token, int64 [T]."""
        result = torch.empty(self.num_tokens, dtype=torch.int64)
        for group_index, group in enumerate(self.groups):
            positions = group.layout.positions()
            for span_index, (first, stop) in enumerate(group.layout.fresh_bounds):
                result[self.blocks[group_index, span_index]] = positions[first:stop].repeat(group.num_samples)
        return result
