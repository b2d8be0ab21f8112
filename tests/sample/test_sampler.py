"""Sampling with caches equals the training forward, and an image is a function of its text and seed alone. fp32."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.schema import ExperimentConfig, SamplingConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.maths.layers import patchify
from rf_repro.maths.noise import normals, uniforms
from rf_repro.maths.schedule import guide, sample_top_k, shifted_times
from rf_repro.model.inputs import GenerationInput
from rf_repro.model.layout import SampleLayout, Span
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.representation.continuous import ContinuousTokens
from rf_repro.sample import decoding
from rf_repro.sample import sampler as sampler_module
from rf_repro.sample.decoding import TokenDecoder
from rf_repro.sample.sampler import Sampler
from tests.model.small import TOKENS, generation_input, largest_difference, run, small_config, small_model

B, T, N, P = 3, 5, 16, 36
SAMPLING = SamplingConfig(steps=4, top_k=6, cfg_representation=2.0, cfg_pixel=3.0, shift_base_patches=9)
TOLERANCE = 3e-5
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def model() -> RFModel:
    return small_model()


@pytest.fixture(scope="module")
def texts(model: RFModel) -> Tensor:
    return generation_input(model, B, T).text_ids


def null(count: int) -> Tensor:
    return torch.tensor([TOKENS.bos] + [TOKENS.null] * (T - 1)).expand(count, T)


CONFIGS = {
    "rf": small_config(),
    "no rf": small_config(representation__kind="none"),
    "continuous": small_config(representation__kind="continuous"),
    "additive": small_config(model__decoder__time_conditioning="additive"),
    "bias": small_config(model__decoder__distance_bias=True),
    "sparse": small_config(model__decoder__num_experts=4, model__decoder__num_active_experts=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_cached_prefix_and_denoise_equal_the_full_forward(config: ExperimentConfig) -> None:
    model = small_model(config)
    given = generation_input(model, B, T)
    ((output,), _) = run(model, [given], [])
    sampler = Sampler(model, PixelSpace(4), SAMPLING, TOKENS)
    caches = sampler._prefix(given.text_ids, given.representation, given.representation_dropped)
    layout = model.generation_layout(T)
    layout = replace(layout, num_cached=layout.length - P)
    for _ in range(2):  # denoising leaves the caches as they are
        assert largest_difference(model.denoise(caches, layout, given.noisy, given.t), output.clean) < TOLERANCE


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@torch.no_grad()
def test_decoding_token_by_token_equals_teacher_forcing(kind: str) -> None:
    model = small_model(small_config(representation__kind=kind) if kind != "discrete" else small_config())
    given = generation_input(model, B, T, dropped=False)
    ((output,), _) = run(model, [given], [])
    assert given.representation is not None
    assert model.representation is not None
    caches = model.decoder.new_caches(B)
    embedded = torch.cat([model.text_embedding(given.text_ids), model.representation.embed(given.representation)], 1)
    start, logits = 0, []
    for count in range(N + 1):
        layout = replace(model.generation_layout(T, count, with_pixels=False), num_cached=start)
        hidden = model.extend(caches, layout, embedded[:, start : layout.length])
        if start == 0:
            assert largest_difference(hidden[:, :T], output.text_hidden) < TOLERANCE
        logits.append(model.representation.predict(hidden[:, -1]))
        start = layout.length
    assert largest_difference(torch.stack(logits[:-1], 1), output.representation) < TOLERANCE
    layout = replace(model.generation_layout(T), num_cached=start)
    assert largest_difference(model.denoise(caches, layout, given.noisy, given.t), output.clean) < TOLERANCE


def reference(
    model: RFModel, sampling: SamplingConfig, text_ids: Tensor, seeds: list[int], codes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Both stages by the full training forward, without any cache: the paper's Appendix A in plain steps."""
    count = len(seeds)
    t0, z0 = torch.zeros(count), torch.zeros(count, P, 48)
    dropped, kept = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    if model.representation is not None and codes is None:
        uniform = torch.stack([uniforms(own("representation", seed), N)[0] for seed in seeds])
        codes = torch.zeros(count, N, dtype=torch.int64)
        for n in range(N):  # tokens after n are not seen by logits n, so zeros may stand there
            ((with_text,), _) = run(model, [GenerationInput(text_ids, z0, t0, codes, kept)], [])
            ((without,), _) = run(model, [GenerationInput(null(count), z0, t0, codes, kept)], [])
            logits = guide(with_text.representation[:, n], without.representation[:, n], sampling.cfg_representation)
            codes[:, n] = sample_top_k(logits, sampling.top_k, uniform[:, n])
    has_codes = codes is not None
    z = torch.stack([normals(own("pixels", seed), P, 48)[0] for seed in seeds])
    times = shifted_times(sampling.steps, (P / sampling.shift_base_patches) ** 0.5).tolist()
    for t, following in pairwise(times):
        at = torch.full((count,), t)
        ((full,), _) = run(model, [GenerationInput(text_ids, z, at, codes, kept if has_codes else None)], [])
        ((none,), _) = run(model, [GenerationInput(null(count), z, at, codes, dropped if has_codes else None)], [])
        clean = none.clean + sampling.cfg_pixel * (full.clean - none.clean)
        z = z + (clean - z) / max(1 - t, 0.05) * (following - t)
    return z, codes


def own(purpose: str, seed: int) -> Tensor:
    return torch.tensor([derive_seed(purpose, seed)])


@pytest.mark.parametrize("scales", [(2.0, 3.0), (1.0, 1.0), (1.0, 2.0), (3.0, 1.0)])
@pytest.mark.parametrize("kind", ["discrete", "none"])
@torch.no_grad()
def test_samples_equal_both_stages_by_full_forwards(kind: str, scales: tuple[float, float]) -> None:
    model = small_model(small_config(representation__kind="none") if kind == "none" else small_config())
    sampling = replace(SAMPLING, cfg_representation=scales[0], cfg_pixel=scales[1])
    texts = generation_input(model, B, T).text_ids
    images, codes = Sampler(model, PixelSpace(4), sampling, TOKENS).sample(texts, SEEDS)
    expected, expected_codes = reference(model, sampling, texts, SEEDS)
    if expected_codes is None:
        assert codes is None
    else:
        assert codes is not None
        assert torch.equal(codes, expected_codes)
    scale = float(expected.abs().max())
    assert largest_difference(patchify(images, 4) / scale, expected / scale) < TOLERANCE


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_a_token_run_by_the_shapes_of_all_places_is_the_same(config: ExperimentConfig) -> None:
    """What is captured on a card, called here: its place is a tensor, and a mask hides what comes after."""
    model = small_model(config)
    layout = SampleLayout((Span("text", T + 6),), num_cached=T)
    caches, own = (model.decoder.new_caches(B, T + 6) for _ in range(2))
    tokens = torch.randn(B, T + 6, model.text_embedding.embedding_dim, generator=torch.Generator().manual_seed(2))
    for both in (caches, own):
        model.extend(both, SampleLayout((Span("text", T),)), tokens[:, :T])
    by_index, by_place = TokenDecoder(model, caches, layout, B), TokenDecoder(model, own, layout, B)
    for index in range(6):
        token, place = tokens[:, T + index], torch.tensor([T + index])
        assert largest_difference(by_place.run_at(token, place), by_index(token, index)) < TOLERANCE
    for cache, other in zip(caches, own, strict=True):
        assert largest_difference(cache.keys, other.keys) < TOLERANCE
        assert largest_difference(cache.values, other.values) < TOLERANCE


@torch.no_grad()
def test_a_sampler_that_captures_draws_the_same_image(model: RFModel, texts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, codes = Sampler(model, PixelSpace(4), SAMPLING, TOKENS).sample(texts, SEEDS)
    given: list[Callable[..., Tensor]] = []
    for module in (sampler_module, decoding):
        monkeypatch.setattr(module, "captures", lambda wish, device: True)
        monkeypatch.setattr(module, "Captured", lambda function: given.append(function) or function)
    images, again = Sampler(model, PixelSpace(4), SAMPLING, TOKENS).sample(texts, SEEDS)
    assert len(given) == 2, "decoding and denoising"
    assert codes is not None
    assert again is not None
    assert torch.equal(again, codes)
    assert largest_difference(images / expected.abs().max(), expected / expected.abs().max()) < TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("variant", ["rf", "continuous", "no rf"])
@torch.no_grad()
def test_a_card_replays_what_it_captured(variant: str) -> None:
    model = small_model(CONFIGS[variant]).cuda()
    captured = small_model(apply_overrides(CONFIGS[variant], {"parallel.compile": "on"})).cuda()
    texts = torch.randint(5, 9, (B, T)).cuda()
    images, other = (Sampler(one, PixelSpace(4), SAMPLING, TOKENS).sample(texts, SEEDS)[0] for one in (model, captured))
    assert largest_difference(images / images.abs().max(), other / images.abs().max()) < TOLERANCE


@pytest.mark.parametrize("scale", [1.0, 2.0])
@torch.no_grad()
def test_continuous_tokens_equal_a_head_run_on_full_forwards(scale: float) -> None:
    """Each sampled feature is fed back, and guidance acts on the head's predicted feature at each of its own steps."""
    model = small_model(small_config(representation__kind="continuous", representation__continuous__steps=3))
    assert isinstance(model.representation, ContinuousTokens)
    texts = generation_input(model, B, T).text_ids
    _, values = Sampler(model, PixelSpace(4), replace(SAMPLING, cfg_representation=scale), TOKENS).sample(texts, SEEDS)
    expected = torch.zeros(B, N, 24)
    noise = torch.stack([normals(own("representation", seed), N, 24)[0] for seed in SEEDS])
    still, kept = (torch.zeros(B, P, 48), torch.zeros(B)), torch.zeros(B, dtype=torch.bool)
    for n in range(N):
        ((with_text,), _) = run(model, [GenerationInput(texts, *still, expected, kept)], [])
        ((without,), _) = run(model, [GenerationInput(null(B), *still, expected, kept)], [])
        z = noise[:, n]
        for step in range(3):
            t = torch.full((B,), step / 3)
            x, x_none = (model.representation.head(z, t, out.representation[:, n]) for out in (with_text, without))
            z = z + (x_none + scale * (x - x_none) - z) / (1 - step / 3) / 3
        expected[:, n] = z
    assert values is not None
    assert (
        largest_difference(values / expected.abs().max(), expected / expected.abs().max()) < 10 * TOLERANCE
    )  # rounding grows from token to token


@torch.no_grad()
def test_given_codes_replace_the_first_stage(model: RFModel, texts: Tensor) -> None:
    codes = torch.randint(16, (B, N), generator=torch.Generator().manual_seed(1))
    images, used = Sampler(model, PixelSpace(4), SAMPLING, TOKENS).sample(texts, SEEDS, codes)
    assert used is not None
    assert torch.equal(used, codes)
    expected, _ = reference(model, SAMPLING, texts, SEEDS, codes)
    scale = float(expected.abs().max())
    assert largest_difference(patchify(images, 4) / scale, expected / scale) < TOLERANCE


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(model: RFModel, texts: Tensor) -> None:
    sampler = Sampler(model, PixelSpace(4), SAMPLING, TOKENS)
    images, codes = sampler.sample(texts, SEEDS)
    assert codes is not None
    assert len({tuple(row) for row in codes.tolist()}) == B
    backwards, codes_backwards = sampler.sample(texts.flip(0), SEEDS[::-1])
    assert codes_backwards is not None
    scale = float(images.abs().max())
    assert torch.equal(codes_backwards.flip(0), codes)
    assert largest_difference(backwards.flip(0) / scale, images / scale) < TOLERANCE
    for index in range(B):
        alone, alone_codes = sampler.sample(texts[index : index + 1], SEEDS[index : index + 1])
        assert alone_codes is not None
        assert torch.equal(alone_codes[0], codes[index])
        assert largest_difference(alone[0] / scale, images[index] / scale) < TOLERANCE
    other, _ = sampler.sample(texts[:1], [99])
    assert largest_difference(other[0] / scale, images[0] / scale) > 1e-2


def certain(value: float) -> RFModel:
    """A model that is certain of x: its pixel head says one colour whatever it sees."""
    model = small_model()
    assert model.pixels is not None
    with torch.no_grad():
        model.pixels.head.weight.zero_()
        model.pixels.head.bias.fill_(value)
    return model


@pytest.mark.parametrize("base", [36, 9])
def test_a_perfect_model_is_integrated_to_its_image(base: int, texts: Tensor) -> None:
    """Exact while no step starts above t = 0.95, where the loss's floor acts."""
    sampling = replace(SAMPLING, steps=20, shift_base_patches=base)
    images, _ = Sampler(certain(0.4), PixelSpace(4), sampling, TOKENS).sample(texts, SEEDS)
    torch.testing.assert_close(images, torch.full_like(images, 0.4), rtol=0, atol=1e-5)


def test_no_noise_is_left_after_steps_beyond_the_floor_of_the_loss(texts: Tensor) -> None:
    """25 uniform steps end with one from t = 0.96; the loss's floor of 1 - t at 0.05 has no part in sampling."""
    images, _ = Sampler(certain(0.4), PixelSpace(4), replace(SAMPLING, steps=25, shift_base_patches=36), TOKENS).sample(
        texts, SEEDS
    )
    torch.testing.assert_close(images, torch.full_like(images, 0.4), rtol=0, atol=1e-5)


def test_a_model_without_pixels_cannot_be_sampled() -> None:
    vlm = small_model(small_config(representation__kind="none", model__pixel__space="none", stages__joint__mixture__generation=0))
    with pytest.raises(ValueError, match="VLM-only"):
        Sampler(vlm, PixelSpace(4), SAMPLING, TOKENS)
