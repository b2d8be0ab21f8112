"""Sampling with one pool at a time gives the images of the whole model, and touches no other pool's weights. fp32.

Tolerance: the same codes, pixels within 1e-4 of the largest value. Texts are read in a pass of their own, so sums come in another
order, as they do for an image in another batch. Measured with codes: 5e-6 at most, an image alone against its batch 7e-6.
Features are fed back without rounding, and this random head enlarges differences step by step as guidance grows (at 2 7e-4, alone
against its batch 6e-4), so continuous tokens are guided little here.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig, SamplingConfig
from rf_repro.model.layout import POOLS, Pool
from rf_repro.model.pools import owner
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.model.vae import KLAutoencoder, LatentSpace
from rf_repro.representation.discrete import DiscreteTokens
from rf_repro.sample.footprint import parked_bytes, tokens_of
from rf_repro.sample.phases import PhasedSampler
from rf_repro.sample.requests import Batch
from rf_repro.sample.sampler import Sampler
from tests.model.small import TOKENS, VOCAB, largest_difference, small_config, small_model

SIZE = (24, 24)
SAMPLING = SamplingConfig(steps=4, top_k=6, cfg_representation=2.0, cfg_pixel=3.0, shift_base_patches=9)
TOLERANCE = 1e-4
EXPERTS = {"model__decoder__num_experts": 4, "model__decoder__num_active_experts": 2, "model__decoder__num_layers": 3}
DENSE: dict[str, object] = {"model__decoder__num_layers": 3}
VARIANTS: dict[str, dict[str, object]] = {
    "pixel": {"representation__kind": "none"},
    "pixel_rf": {},
    "continuous": {"representation__kind": "continuous", "representation__continuous__steps": 3},
    "vae_rf": {"model__pixel__space": "vae"},
    "repa": {"representation__kind": "repa", "representation__alignment__layer": 1},
    "additive time": {"model__decoder__time_conditioning": "additive"},
    "distance bias": {"model__decoder__distance_bias": True},
    "dense": DENSE,
}


def batches(*shapes: tuple[int, int]) -> list[Batch]:
    """Of random texts [B, T]."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(4, VOCAB, shape, generator=generator) for shape in shapes]
    return [Batch(text, range(100 * number, 100 * number + len(text))) for number, text in enumerate(texts)]


def space_of(config: ExperimentConfig) -> ImageSpace:
    if config.model.pixel.space == "pixel":
        return PixelSpace(config.model.pixel.patch_size)
    vae = KLAutoencoder(config.model.vae)
    vae.initialise(0)
    return LatentSpace(vae, config.model.pixel.patch_size)


def sampler_of(config: ExperimentConfig, sampling: SamplingConfig = SAMPLING) -> Sampler:
    return Sampler(small_model(config), space_of(config), sampling, TOKENS)


def only(model: RFModel, uses: list[Pool]) -> Callable[[Pool], None]:
    """`use`: makes NaN of what belongs to other pools, so that whatever touches it shows in the images."""
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def use(pool: Pool) -> None:
        uses.append(pool)
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name] if owner(name) in (None, pool) else torch.full_like(parameter, torch.nan))

    return use


CASES = [(variant, scales) for variant in VARIANTS for scales in ((2.0, 3.0), (1.0, 1.0))]


@pytest.mark.parametrize(("variant", "scales"), [*CASES, ("pixel_rf", (1.0, 2.0)), ("pixel_rf", (3.0, 1.0))])
def test_images_are_those_of_the_whole_model(variant: str, scales: tuple[float, float]) -> None:
    config = small_config(**VARIANTS[variant] if VARIANTS[variant] is DENSE else EXPERTS | VARIANTS[variant])
    guidance = 1 + (scales[0] - 1) * (0.1 if config.representation.kind == "continuous" else 1)
    sampling = replace(SAMPLING, cfg_representation=guidance, cfg_pixel=scales[1])
    work = batches((3, 5), (2, 7))
    expected = list(sampler_of(config, sampling).sample_all(work, SIZE))
    sampler, uses = sampler_of(config, sampling), list[Pool]()
    found = list(PhasedSampler(sampler, only(sampler.model, uses)).sample_all(work, SIZE))
    assert uses == [pool for pool in POOLS if pool != "representation" or sampler.model.representation is not None]
    assert len(found) == len(expected) == 2
    for (images, values), (whole, whole_values) in zip(found, expected, strict=True):
        scale = max(1.0, float(whole.abs().max()))
        assert images.std() > 0.1  # there is something to compare
        assert largest_difference(images / scale, whole / scale) < TOLERANCE
        assert (values is None) == (whole_values is None)
        if values is None or whole_values is None:
            continue
        if isinstance(sampler.model.representation, DiscreteTokens):
            assert torch.equal(values, whole_values)
        else:
            assert largest_difference(values, whole_values) < TOLERANCE * max(1.0, float(whole_values.abs().max()))


def test_another_pool_s_weights_would_show() -> None:
    """The test above can fail: with the pixels' pool kept away, images are NaN."""
    sampler, uses = sampler_of(small_config(**EXPERTS)), list[Pool]()
    use = only(sampler.model, uses)
    wrong: dict[Pool, Pool] = {"understanding": "understanding", "representation": "representation", "pixel": "representation"}
    ((images, _),) = PhasedSampler(sampler, lambda pool: use(wrong[pool])).sample_all(batches((2, 5)), SIZE)
    assert images.isnan().all()


def test_every_tensor_of_a_model_has_an_owner_or_is_attention() -> None:
    model = small_model(small_config(representation__kind="repa", representation__alignment__layer=1))
    names = [*dict(model.named_parameters()), *dict(small_model().named_parameters())]
    shared = {name for name in names if owner(name) is None}
    assert shared == {name for name in names if name.startswith("decoder.") and ".attention" in name}
    for pool in POOLS:
        assert {f"decoder.blocks.1.pools.{pool}.down.weight", f"decoder.blocks.1.ffn_norms.{pool}.weight"} <= {
            name for name in names if owner(name) == pool
        }
    with pytest.raises(ValueError, match="belongs to no pool"):
        owner("decoder.blocks.0.something.weight")


def test_groups_keep_within_what_may_wait_and_change_nothing() -> None:
    config = small_config(**EXPERTS)
    sampler, uses = sampler_of(config), list[Pool]()
    work = batches((3, 5), (2, 5), (2, 7), (1, 7), (4, 5))
    use = only(sampler.model, uses)

    def waiting(group: list[Batch]) -> int:
        """Of a group's samples, and of one without text for each length."""
        samples = [(len(batch.text_ids), batch.text_ids.shape[1]) for batch in group]
        samples += [(1, length) for length in {length for _, length in samples}]
        return sum(parked_bytes(config, tokens_of(config, SIZE, length), count, 4) for count, length in samples)

    together = list(PhasedSampler(sampler, use).sample_all(work, SIZE))
    assert len(uses) == 3
    for limit in (1, waiting(work[:2]), waiting(work[:3]), waiting(work[:3]) - 1, waiting(work) - 1, waiting(work)):
        phased = PhasedSampler(sampler, use, limit)
        groups = phased.groups(work, SIZE)
        assert [batch for group in groups for batch in group] == work
        assert all(waiting(group) <= limit or len(group) == 1 for group in groups)
        for group, following in pairwise(groups):
            assert waiting([*group, following[0]]) > limit  # none could have been larger
        uses.clear()
        for (images, _), (expected, _) in zip(phased.sample_all(work, SIZE), together, strict=True):
            assert torch.equal(images, expected)
        assert uses == [*POOLS] * len(groups)


def test_what_waits_is_as_large_as_it_is_said_to_be() -> None:
    config = small_config(**EXPERTS)
    sampler = sampler_of(config)
    texts = batches((3, 5))[0].text_ids
    _, caches = sampler.sample_representation(texts, [1, 2, 3], SIZE)
    held: list[Tensor] = [tensor for cache in caches for tensor in (cache.keys, cache.values)]
    tokens = tokens_of(config, SIZE, 5)
    assert (tokens.text, tokens.representation, tokens.pixel) == (5, 17, 36)
    assert sum(tensor.numel() * 4 for tensor in held) == parked_bytes(config, tokens, 3, 4)
