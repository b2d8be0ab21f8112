"""Attention structure, positions and storage against tables built token by token from the paper's sentences."""

from dataclasses import replace

import pytest
import torch

from rf_repro.model.layout import POOL_OF, POOLS, Group, PackedLayout, SampleLayout, Span

GENERATION = SampleLayout((Span("text", 3), Span("representation", 5, (2, 2)), Span("pixel", 9, (3, 3))))
NO_RF = SampleLayout((Span("text", 4), Span("pixel", 4, (2, 2))))
UNDERSTANDING = SampleLayout((Span("image", 4, (2, 2)), Span("text", 5)))
LAYOUTS = [GENERATION, NO_RF, UNDERSTANDING]


def tokens_of(layout: SampleLayout) -> list[tuple[str, int]]:
    """(kind, span) of each token."""
    return [(span.kind, index) for index, span in enumerate(layout.spans) for _ in range(span.length)]


def sees(layout: SampleLayout, row: int, column: int) -> bool:
    """Sec. 3.2 and Fig. 3, sentence by sentence, for one pair of tokens."""
    kinds = tokens_of(layout)
    (row_kind, row_span), (column_kind, column_span) = kinds[row], kinds[column]
    if row_kind == "text" or row_kind == "representation":
        return column <= row and column_kind != "pixel"  # causal, and P is never seen
    if row_kind == "image":
        return column_span == row_span or column < row  # features among themselves
    return column_span == row_span or (column < row and column_kind in ("text", "representation"))  # P


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pair_of_tokens_sees_as_the_paper_says(layout: SampleLayout) -> None:
    expected = [[sees(layout, row, column) for column in range(layout.length)] for row in range(layout.length)]
    assert layout.may_attend().tolist() == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cached_tokens_are_only_columns(layout: SampleLayout) -> None:
    for cached in range(layout.length):
        rest = replace(layout, num_cached=cached)
        assert torch.equal(rest.may_attend(), layout.may_attend()[cached:])
        assert torch.equal(rest.positions(), layout.positions()[cached:])
        assert torch.equal(rest.pixel_distances(), layout.pixel_distances()[cached:])
        assert rest.num_fresh == layout.length - cached
        stops = [stop for _, stop in rest.fresh_bounds]
        assert stops[-1] == rest.num_fresh
        assert sum(stop - start for start, stop in rest.fresh_bounds) == rest.num_fresh


def test_positions_run_through_text_and_representation_and_stand_still_in_an_image() -> None:
    assert GENERATION.positions().tolist() == [0, 1, 2, 3, 4, 5, 6, 7] + [8] * 9
    assert UNDERSTANDING.positions().tolist() == [0] * 4 + [1, 2, 3, 4, 5]


def test_distances_are_those_of_cell_centres_in_patches() -> None:
    distances = GENERATION.pixel_distances()
    for row in range(9):
        y, x = (row // 3 + 0.5), (row % 3 + 0.5)  # in patches of the 3x3 grid
        for column in range(4):  # the representation's cells are 1.5 patches wide; its start token has no place
            v, u = (column // 2 + 0.5) * 1.5, (column % 2 + 0.5) * 1.5
            assert distances[8 + row, 4 + column] == pytest.approx(((y - v) ** 2 + (x - u) ** 2) ** 0.5, abs=1e-5)
        for column in range(9):
            v, u = column // 3 + 0.5, column % 3 + 0.5
            assert distances[8 + row, 8 + column] == pytest.approx(((y - v) ** 2 + (x - u) ** 2) ** 0.5, abs=1e-5)
    assert not distances[:8].any()
    assert not distances[8:, :4].any()  # text and the start token


def test_a_pack_stores_pool_by_pool_and_group_by_group() -> None:
    groups = (Group(GENERATION, 2), Group(UNDERSTANDING, 3), Group(NO_RF, 1))
    packed = PackedLayout(groups)
    expected = []  # (pool, group, span, sample, token) in storage order
    for pool in POOLS:
        for index, group in enumerate(groups):
            for span_index, span in enumerate(group.layout.spans):
                if POOL_OF[span.kind] == pool:
                    expected += [(pool, index, span_index, b, n) for b in range(group.num_samples) for n in range(span.length)]
    assert packed.num_tokens == len(expected) == sum(g.layout.length * g.num_samples for g in groups)
    assert packed.pool_sizes == tuple(sum(item[0] == pool for item in expected) for pool in POOLS)
    for (index, span_index), rows in packed.blocks.items():
        assert {item[1:3] for item in expected[rows]} == {(index, span_index)}
    first_of = [0, 2, 5]  # groups are numbered through
    assert packed.visibility[0].tolist() == [first_of[item[1]] + item[3] for item in expected]
    for (_, index, span_index, _, n), position in zip(expected, packed.positions().tolist(), strict=True):
        layout = groups[index].layout
        assert position == layout.positions()[layout.bounds[span_index][0] + n]


def test_a_pack_with_cached_tokens_stores_the_fresh_ones() -> None:
    layout = replace(GENERATION, num_cached=5)  # in the representation span, 3 of it are fresh
    packed = PackedLayout((Group(layout, 2),))
    assert packed.pool_sizes == (0, 6, 18)
    assert packed.positions().tolist() == [5, 6, 7] * 2 + [8] * 18
    assert packed.visibility[0].tolist() == [0] * 3 + [1] * 3 + [0] * 9 + [1] * 9
