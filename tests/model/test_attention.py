"""Attention of a pack against softmax over a mask, one sample and one head at a time, in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.model import attention
from rf_repro.model.attention import (
    DISTANCE_SLOPES,
    KVCache,
    PackContext,
    attend,
    explicit_attention,
    fused_attention,
    fused_runs,
    make_context,
    token_contexts,
)
from rf_repro.model.layout import Group, PackedLayout, SampleLayout
from tests.model.test_layout import GENERATION, LAYOUTS, NO_RF, UNDERSTANDING, sees

H, K, D = 6, 2, 8  # query heads, key-value heads, head_dim
SLOPES = (1.5, 0.6, 0.2, 0.0, 1.5, 0.6)
CPU = torch.device("cpu")


def context(packed: PackedLayout, slopes: tuple[float, ...] | None = None) -> PackContext:
    return make_context(packed, config_of(slopes), torch.float64, CPU)


def config_of(slopes: tuple[float, ...] | None) -> DecoderConfig:
    assert slopes is None or slopes[:4] == DISTANCE_SLOPES
    return DecoderConfig(num_heads=H, num_kv_heads=K, head_dim=D, distance_bias=slopes is not None)


def one_head(q: Tensor, k: Tensor, v: Tensor, layout: SampleLayout, slope: float) -> Tensor:
    """[fresh, d], [L, d], [L, d] -> [fresh, d]: every row's softmax over the keys that it sees, in plain loops."""
    rows = []
    for fresh in range(layout.num_fresh):
        row = layout.num_cached + fresh
        seen = [column for column in range(layout.length) if sees(layout, row, column)]
        distances = layout.pixel_distances()[fresh, seen].double()
        scores = (k[seen] @ q[fresh]) / D**0.5 - slope * distances
        weights = scores.exp() / scores.exp().sum()
        rows.append(weights @ v[seen])
    return torch.stack(rows)


def naive(q: Tensor, k: Tensor, v: Tensor, layout: SampleLayout, slopes: tuple[float, ...] | None) -> Tensor:
    """One sample: q [fresh, H, d], k and v [L, K, d] -> [fresh, H*d]. Query head h reads key-value head h // (H / K)."""
    heads = [one_head(q[:, h], k[:, h // (H // K)], v[:, h // (H // K)], layout, slopes[h] if slopes else 0.0) for h in range(H)]
    return torch.cat(heads, 1)


def random_heads(count: int, heads: int, seed: int) -> Tensor:
    return torch.randn(count, heads, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("slopes", [None, SLOPES])
@pytest.mark.parametrize("fused", [False, True])
def test_a_pack_of_groups_equals_one_sample_at_a_time(
    slopes: tuple[float, ...] | None, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused:
        monkeypatch.setattr(attention, "MAX_EXPLICIT_TOKENS", 0)
    groups = (Group(GENERATION, 2), Group(UNDERSTANDING, 3), Group(NO_RF, 1))
    packed = PackedLayout(groups)
    q, k, v = (random_heads(packed.num_tokens, heads, seed) for seed, heads in enumerate((H, K, K)))
    out = attend(q, k, v, context(packed, slopes))
    ids = packed.visibility[0]
    sample = 0
    for index, group in enumerate(groups):
        for _ in range(group.num_samples):
            rows = torch.cat(
                [
                    torch.arange(packed.num_tokens)[packed.blocks[index, span]][ids[packed.blocks[index, span]] == sample]
                    for span in range(len(group.layout.spans))
                ]
            )
            expected = naive(q[rows], k[rows], v[rows], group.layout, slopes)
            torch.testing.assert_close(out[rows], expected, rtol=0, atol=1e-6 if slopes else 1e-10)  # the bias is fp32
            sample += 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_explicit_and_fused_paths_agree_whatever_is_cached(layout: SampleLayout) -> None:
    B = 2
    k, v = (random_heads(B * layout.length, K, seed).view(B, -1, K, D) for seed in (1, 2))
    whole = random_heads(B * layout.length, H, 0).view(B, -1, H, D)
    for cached in range(layout.length):
        rest = replace(layout, num_cached=cached)
        q = whole[:, cached:]
        expected = torch.stack([naive(q[b], k[b], v[b], rest, None) for b in range(B)])
        (group,) = context(PackedLayout((Group(rest, B),))).groups
        keys, values = k.transpose(1, 2), v.transpose(1, 2)
        torch.testing.assert_close(explicit_attention(q, keys, values, group.bias), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(fused_attention(q, keys, values, fused_runs(rest)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("slopes", [None, SLOPES])
def test_a_cache_continues_the_sequence_and_grows_only_on_commit(slopes: tuple[float, ...] | None) -> None:
    layout, B, cached = GENERATION, 2, 5
    packed = PackedLayout((Group(layout, B),))
    q, k, v = (random_heads(packed.num_tokens, heads, seed) for seed, heads in enumerate((H, K, K)))
    whole = attend(q, k, v, context(packed, slopes))
    rows = torch.cat([torch.arange(packed.num_tokens)[rows].view(B, -1) for rows in packed.blocks.values()], 1)  # [B, L]
    rest = PackedLayout((Group(replace(layout, num_cached=cached), B),))
    fresh = [layout.bounds[1][1] - cached, layout.spans[2].length]
    stored = torch.cat([part.flatten() for part in rows[:, cached:].split(fresh, 1)])  # storage order of the fresh tokens
    for room in (0, 3, layout.length):  # where there is not enough, it is made
        cache = KVCache(*(F.pad(tensor[rows[:, :cached]].transpose(1, 2), (0, 0, 0, room)) for tensor in (k, v)), cached)
        for commit in (False, False, True):
            out = attend(q[stored], k[stored], v[stored], context(rest, slopes), cache, commit)
            torch.testing.assert_close(out, whole[stored], rtol=0, atol=1e-6 if slopes else 1e-10)
            assert cache.length == (layout.length if commit else cached)
        for own, given in ((cache.keys, k), (cache.values, v)):
            assert torch.equal(own[:, :, : layout.length], given[rows].transpose(1, 2))


def test_caches_are_stacked_and_cut_by_what_they_keep() -> None:
    one, other = (KVCache(*torch.randn(2, count, K, 6, D), 4) for count in (3, 1))
    both = KVCache.stack(one, other, 2, room=5)
    assert (both.length, both.keys.shape) == (4, (5, K, 9, D))
    for own, first, second in ((both.keys, one.keys, other.keys), (both.values, one.values, other.values)):
        assert torch.equal(own[:, :, :4], torch.cat([first, second, second])[:, :, :4])
    token = torch.randn(3, 1, K, D)
    keys, _ = both.first(3).extended(token, token, commit=True)
    assert torch.equal(keys, torch.cat([one.keys[:, :, :4], token.transpose(1, 2)], 2))


@pytest.mark.parametrize("fused", [False, True])
def test_tokens_one_by_one_equal_the_whole_span(fused: bool) -> None:
    """`token_contexts` against the context of the whole pack: rotary tables, and what each token sees."""
    layout, B = SampleLayout(GENERATION.spans[:2]), 2
    config, start = config_of(None), GENERATION.bounds[1][0] + 1
    packed = PackedLayout((Group(layout, B),))
    q, k, v = (random_heads(packed.num_tokens, heads, seed) for seed, heads in enumerate((H, K, K)))
    whole = context(packed)
    expected = attend(q, k, v, whole)
    rows = torch.cat([torch.arange(packed.num_tokens)[rows].view(B, -1) for rows in packed.blocks.values()], 1)
    cache = KVCache(*(F.pad(tensor[rows[:, :start]].transpose(1, 2), (0, 0, 0, 9)) for tensor in (k, v)), start)
    contexts = token_contexts(replace(layout, num_cached=start), B, config, torch.float64, CPU)
    assert len(contexts) == layout.length - start
    for index, one in enumerate(contexts):
        if fused:  # as on a GPU
            (group,) = one.groups
            one = one._replace(groups=(group._replace(runs=((0, 1, True, start + index + 1),)),))
        own = rows[:, start + index]
        torch.testing.assert_close(attend(q[own], k[own], v[own], one, cache, commit=True), expected[own], rtol=0, atol=1e-10)
        assert torch.equal(one.cos.expand(B, H + K, -1), whole.cos[own])
        assert torch.equal(one.sin.expand(B, H + K, -1), whole.sin[own])


def test_pixels_before_other_spans_are_refused_by_the_fused_path() -> None:
    layout = SampleLayout(tuple(reversed(NO_RF.spans)))  # text after pixels may not see them: not a run of keys
    with pytest.raises(ValueError, match="pixel span must be the last"):
        fused_runs(layout)
