"""One pass over a pack of mixed groups equals one sample at a time, and information flows only where Sec. 3.2 lets it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import PackedBatch, SampleGroup
from rf_repro.model.inputs import GenerationInput
from rf_repro.model.rf_model import RFModel
from tests.model.small import (
    VOCAB,
    generation_input,
    largest_difference,
    run,
    small_config,
    small_model,
    understanding_input,
)

CONFIGS = {
    "pixel_rf": small_config(),
    "pixel": small_config(representation__kind="none"),
    "continuous": small_config(representation__kind="continuous"),
    "repa": small_config(representation__kind="repa", representation__alignment__layer=1),
    "additive time": small_config(model__decoder__time_conditioning="additive"),
    "distance bias": small_config(model__decoder__distance_bias=True),
    "sparse": small_config(model__decoder__num_experts=4, model__decoder__num_active_experts=2),
}


def one_of(given: GenerationInput, index: int) -> GenerationInput:
    part = slice(index, index + 1)
    return GenerationInput(
        given.text_ids[part], given.noisy[part], given.t[part],
        None if given.representation is None else given.representation[part],
        None if given.representation_dropped is None else given.representation_dropped[part],
    )  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_a_pack_of_mixed_groups_equals_one_sample_at_a_time(config: ExperimentConfig) -> None:
    model = small_model(config)
    generation = [generation_input(model, 3, 5, seed=1), generation_input(model, 2, 7, seed=2)]
    questions = [understanding_input(model, 2, 6, seed=3), understanding_input(model, 1, 4, seed=4)]
    outputs, answers = run(model, generation, questions)
    assert len(outputs) == len(answers) == 2
    for given, output in zip(generation, outputs, strict=True):
        for index in range(given.text_ids.shape[0]):
            ((alone,), _) = run(model, [one_of(given, index)], [])
            assert largest_difference(output.text_hidden[index : index + 1], alone.text_hidden) < 2e-5
            assert largest_difference(output.clean[index : index + 1], alone.clean) < 2e-5
            for part, alone_part in ((output.representation, alone.representation), (output.aligned, alone.aligned)):
                assert (part is None) == (alone_part is None)
                if part is not None:
                    assert largest_difference(part[index : index + 1], alone_part) < 2e-6 * max(10.0, float(part.abs().max()))
    shapes = {"discrete": (16, 16), "continuous": (16, 32)}  # logits; conditions of the diffusion head
    predicted, aligned = outputs[0].representation, outputs[0].aligned
    assert (predicted.shape[1:] if predicted is not None else None) == shapes.get(config.representation.kind)
    assert (aligned is not None) == (config.representation.kind == "repa")
    for question, logits in zip(questions, answers, strict=True):
        for index in range(question.text_ids.shape[0]):
            single = replace(question, images=question.images[index, None], text_ids=question.text_ids[index, None])
            _, (alone_logits,) = run(model, [], [single])
            assert largest_difference(logits[index : index + 1], alone_logits) < 2e-5


@pytest.fixture
def model() -> RFModel:
    return small_model()


@torch.no_grad()
def test_pixels_and_their_time_reach_no_text_and_no_representation(model: RFModel) -> None:
    given = generation_input(model, 2, 5, dropped=False)
    ((before,), _) = run(model, [given], [])
    ((after,), _) = run(model, [replace(given, noisy=given.noisy + 3, t=1 - given.t)], [])
    assert torch.equal(before.text_hidden, after.text_hidden)
    assert torch.equal(before.representation, after.representation)
    assert largest_difference(before.clean, after.clean) > 0.1


@torch.no_grad()
def test_a_patch_reaches_every_patch(model: RFModel) -> None:
    given = generation_input(model, 1, 5, dropped=False)
    noisy = given.noisy.clone()
    noisy[0, 20] += 3
    ((before,), _), ((after,), _) = run(model, [given], []), run(model, [replace(given, noisy=noisy)], [])
    moved = (before.clean - after.clean).abs().amax(-1)[0]
    assert bool((moved > 1e-6).all())


@torch.no_grad()
def test_a_representation_token_reaches_the_later_ones_and_all_pixels(model: RFModel) -> None:
    given = generation_input(model, 1, 5, dropped=False)
    changed = 9
    codes = given.representation.clone()  # type: ignore[union-attr]
    codes[0, changed] = (codes[0, changed] + 1) % 16
    ((before,), _), ((after,), _) = run(model, [given], []), run(model, [replace(given, representation=codes)], [])
    moved = (before.representation - after.representation).abs().amax(-1)[0]  # logits n predict code n
    assert not moved[: changed + 1].any()
    assert bool((moved[changed + 1 :] > 1e-6).all())
    assert torch.equal(before.text_hidden, after.text_hidden)
    assert bool(((before.clean - after.clean).abs().amax(-1) > 1e-6).all())


@torch.no_grad()
def test_a_word_reaches_everything_after_it(model: RFModel) -> None:
    given = generation_input(model, 1, 5, dropped=False)
    text = given.text_ids.clone()
    text[0, 2] = 4 + (text[0, 2] - 3) % (VOCAB - 4)
    ((before,), _), ((after,), _) = run(model, [given], []), run(model, [replace(given, text_ids=text)], [])
    assert torch.equal(before.text_hidden[:, :2], after.text_hidden[:, :2])
    assert bool(((before.text_hidden - after.text_hidden).abs().amax(-1)[0, 2:] > 1e-6).all())
    assert bool(((before.representation - after.representation).abs().amax(-1) > 1e-6).all())
    assert bool(((before.clean - after.clean).abs().amax(-1) > 1e-6).all())


@torch.no_grad()
def test_an_image_reaches_all_of_its_answer_and_a_word_only_later_ones(model: RFModel) -> None:
    question = understanding_input(model, 2, 6)
    images = question.images.clone()
    images[0, :, :4, :4] *= -1
    _, (before,) = run(model, [], [question])
    _, (after,) = run(model, [], [replace(question, images=images)])
    moved = (before - after).abs().amax(-1)
    assert bool((moved[0] > 1e-6).all())
    assert not moved[1].any()
    text = question.text_ids.clone()
    text[0, 3] = 4 + (text[0, 3] - 3) % (VOCAB - 4)
    _, (after,) = run(model, [], [replace(question, text_ids=text)])
    moved = (before - after).abs().amax(-1)[0]
    assert not moved[:3].any()
    assert bool((moved[3:] > 1e-6).all())


@torch.no_grad()
def test_a_dropped_representation_says_nothing_about_its_codes(model: RFModel) -> None:
    given = generation_input(model, 1, 5)
    given = replace(given, representation_dropped=torch.tensor([True]))
    ((before,), _) = run(model, [given], [])
    ((after,), _) = run(model, [replace(given, representation=(given.representation + 1) % 16)], [])  # type: ignore[operator]
    assert torch.equal(before.clean, after.clean)
    assert torch.equal(before.representation, after.representation)
    ((kept,), _) = run(model, [replace(given, representation_dropped=torch.tensor([False]))], [])
    assert largest_difference(kept.clean, before.clean) > 1e-3


def test_tokens_are_counted_as_the_pack_holds_them(model: RFModel) -> None:
    generation, question = generation_input(model, 3, 5), understanding_input(model, 2, 6)
    images = torch.zeros(3, 3, 24, 24)
    batch = PackedBatch(
        (SampleGroup(images, generation.text_ids),), (SampleGroup(question.images, question.text_ids),), masked_images=images[:1]
    )
    # text + start and 16 representation tokens + 36 patches; 16 image features + text; 64 encoder patches
    assert model.num_tokens(batch) == 3 * (5 + 17 + 36) + 2 * (16 + 6) + 64


@torch.no_grad()
def test_text_alone_is_the_same_text_without_its_image(model: RFModel) -> None:
    question = understanding_input(model, 2, 6, seed=3)
    _, (alone, with_image) = run(model, [], [replace(question, images=None), question])
    assert alone.shape == with_image.shape
    assert largest_difference(alone, with_image) > 1e-3
    _, (again,) = run(model, [generation_input(model, 3, 5)], [replace(question, images=None)])
    assert largest_difference(alone, again) < 2e-5
    assert [span.kind for span in model.understanding_layout(6, with_image=False).spans] == ["text"]


@pytest.mark.parametrize("layer", [1, 3])
@torch.no_grad()
def test_what_is_aligned_is_projected_from_the_output_of_that_layer(layer: int) -> None:
    """Layers count from 1: what a hook on the block says."""
    model = small_model(small_config(
        model__decoder__num_layers=3, representation__kind="repa", representation__alignment__layer=layer,
    ))  # fmt: skip
    given, outputs = generation_input(model, 2, 5), list[Tensor]()
    hook = model.decoder.blocks[layer - 1].register_forward_hook(lambda block, inputs, output: outputs.append(output[0]))
    ((output,), _) = run(model, [given], [])
    hook.remove()
    assert output.aligned is not None
    assert model.alignment is not None
    (hidden,) = outputs
    pixels = hidden[-2 * 36 :].view(2, 36, -1)  # the pool that is stored last
    assert output.aligned.shape == (2, 36, 24)
    assert largest_difference(output.aligned, model.alignment(pixels)) < 1e-6


def test_the_balance_is_the_mean_over_layers_and_pools() -> None:
    model = small_model(small_config(model__decoder__num_experts=4, model__decoder__num_active_experts=2))
    balances: list[Tensor] = []
    pools = [pool for block in model.decoder.blocks for pool in block.pools.values()]  # type: ignore[union-attr, operator]
    hooks = [pool.register_forward_hook(lambda pool, inputs, output: balances.append(output[1])) for pool in pools]
    output = model([generation_input(model, 2, 5)], [understanding_input(model, 2, 4)])
    for hook in hooks:
        hook.remove()
    assert len(balances) == 2 * 3, "two layers of three pools"
    assert float(output.balance.detach()) == pytest.approx(float(torch.stack(balances).mean().detach()), rel=1e-6)
