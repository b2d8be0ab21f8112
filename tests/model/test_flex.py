"""One FlexAttention call for a pack of many layouts equals attention group by group, and its blocks are exactly those needed."""

import itertools

import pytest
import torch
from torch import Tensor

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.model.attention import PackContext, attend, make_context
from rf_repro.model.flex import BLOCK, block_maps, block_mask, flex_attend
from rf_repro.model.layout import Group, PackedLayout, SampleLayout, Span

H, K, D = 4, 2, 16


def generation(text: int, rows: int, columns: int) -> SampleLayout:
    """With twice as many rows and columns of pixels as of representation tokens."""
    tokens = Span("representation", 1 + rows * columns, (rows, columns))
    return SampleLayout((Span("text", text), tokens, Span("pixel", 4 * rows * columns, (2 * rows, 2 * columns))))


def question(text: int, rows: int, columns: int) -> SampleLayout:
    return SampleLayout((Span("image", rows * columns, (rows, columns)), Span("text", text)))


MIXED = PackedLayout((
    Group(generation(7, 6, 8), 2), Group(question(150, 12, 12), 1), Group(generation(31, 3, 2), 1),
    Group(SampleLayout((Span("text", 40),)), 2), Group(question(5, 2, 9), 3), Group(question(4, 3, 3), 0),
))  # fmt: skip
PACKS = {
    "mixed": MIXED,
    "whole blocks": PackedLayout((Group(question(2 * BLOCK, 16, 16), 1), Group(generation(BLOCK, 8, 16), 1))),
    "one token": PackedLayout((Group(SampleLayout((Span("text", 1),)), 1),)),
}


def context(packed: PackedLayout) -> PackContext:
    """On a CPU: of attention group by group."""
    config = DecoderConfig(num_heads=H, num_kv_heads=K, head_dim=D)
    return make_context(packed, config, torch.float32, torch.device("cpu"))


def allowed(packed: PackedLayout) -> Tensor:
    """bool [T, T] from each sample's own table, pair by pair."""
    table = torch.zeros(packed.num_tokens, packed.num_tokens, dtype=torch.bool)
    for index, group in enumerate(packed.groups):
        own = group.layout.may_attend()
        for sample in range(group.num_samples):
            rows = []
            for number, (start, stop) in enumerate(group.layout.bounds):
                first = packed.blocks[index, number].start + sample * (stop - start)
                rows += range(first, first + stop - start)
            table[torch.tensor(rows)[:, None], torch.tensor(rows)[None]] = own
    return table


def heads(packed: PackedLayout, count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(packed.num_tokens, count, D, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("packed", PACKS.values(), ids=PACKS)
def test_blocks_are_touched_where_some_pair_attends_and_full_where_all_do(packed: PackedLayout) -> None:
    touched, full = block_maps(packed)
    count = touched.shape[0]
    table = torch.zeros(count * BLOCK, count * BLOCK, dtype=torch.bool)
    table[: packed.num_tokens, : packed.num_tokens] = allowed(packed)
    table[packed.num_tokens :, packed.num_tokens :] = True  # padding sees padding
    for q, k in itertools.product(range(count), repeat=2):
        block = table[q * BLOCK : (q + 1) * BLOCK, k * BLOCK : (k + 1) * BLOCK]
        assert touched[q, k] >= bool(block.any()), (q, k)  # none is missed
        assert bool(block.all()) >= full[q, k], (q, k)  # none is full that is not
        if not block.any():
            assert not touched[q, k], (q, k)  # and none is computed for nothing
    if packed is PACKS["whole blocks"]:
        assert full.sum() > 0


@pytest.mark.parametrize("packed", PACKS.values(), ids=PACKS)
def test_the_mask_is_the_papers(packed: PackedLayout) -> None:
    mask = block_mask(packed, torch.device("cpu"))
    index = torch.arange(packed.num_tokens)
    found = mask.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    assert torch.equal(found, allowed(packed))


@pytest.mark.parametrize("packed", PACKS.values(), ids=PACKS)
@torch.no_grad()
def test_it_equals_attention_group_by_group(packed: PackedLayout) -> None:
    q, k, v = heads(packed, H, 0), heads(packed, K, 1), heads(packed, K, 2)
    out = flex_attend(q, k, v, block_mask(packed, q.device))
    torch.testing.assert_close(out, attend(q, k, v, context(packed)), rtol=0, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", PACKS.values(), ids=PACKS)
def test_compiled_with_gradients_it_equals_attention_group_by_group(packed: PackedLayout, dtype: torch.dtype) -> None:
    results = []
    for device in ("cuda", "cpu"):  # on the CPU in float32, by groups
        parts = [heads(packed, count, seed, dtype).to(device) for seed, count in enumerate((H, K, K))]
        parts = [part if device == "cuda" else part.float() for part in parts]
        for part in parts:
            part.requires_grad_()
        cuda = device == "cuda"
        out = flex_attend(*parts, block_mask(packed, parts[0].device)) if cuda else attend(*parts, context(packed))
        weights = heads(packed, H, 9).flatten(1).to(out)
        (out * weights).sum().backward()
        results.append([tensor.detach().float().cpu() for tensor in (out, *(part.grad for part in parts))])
    tolerance = 2e-3 if dtype == torch.float32 else 0.03  # tensor cores round to TF32 or bf16
    for found, expected in zip(*results, strict=True):
        assert float((found - expected).abs().max()) < tolerance * max(1.0, float(expected.abs().max()))
