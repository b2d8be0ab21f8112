"""The training mixture: what a step sees depends on seed, stage, step and kind alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rf_repro.config.data_schema import DataConfig, ScenesConfig
from rf_repro.config.training_schema import MixtureConfig, StageConfig
from rf_repro.data.packing import SampleGroup, to_pixels
from rf_repro.data.scenes.mixture import SceneMixture
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld

DATA = DataConfig(scenes=ScenesConfig(num_train=64))
STAGE = StageConfig(
    name="joint", steps=1, learning_rate=1.0,
    mixture=MixtureConfig(generation=5, understanding=4, masked_image=3, questions=6, text=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> SceneTokenizer:
    return SceneTokenizer(DATA.scenes)


@pytest.fixture(scope="module")
def mixture(tokenizer: SceneTokenizer) -> SceneMixture:
    return SceneMixture(DATA, tokenizer)


def same(first: SampleGroup, second: SampleGroup) -> bool:
    pairs = zip((first.images, first.text_ids, first.answer_mask), (second.images, second.text_ids, second.answer_mask),
                strict=True)  # fmt: skip
    return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def test_each_kind_is_there_in_its_number_and_form(mixture: SceneMixture) -> None:
    batch = mixture.batch(STAGE, 0, 1)
    (captioned,) = batch.generation
    described, asked, alone = batch.understanding
    assert [len(group.text_ids) for group in (captioned, described, asked, alone)] == [5, 4, 6, 2]
    assert [group.images is None for group in (captioned, described, asked, alone)] == [False, False, False, True]
    assert [group.answer_mask is None for group in (captioned, described, asked, alone)] == [True, True, False, True]
    assert batch.masked_images is not None
    assert batch.masked_images.shape == (3, 3, 24, 24)


def test_variants_of_a_seed_see_the_same_samples_of_the_kinds_they_share(mixture: SceneMixture) -> None:
    whole = mixture.batch(STAGE, 0, 7)
    alone = mixture.batch(replace(STAGE, mixture=replace(STAGE.mixture, generation=0, understanding=0)), 0, 7)
    assert not alone.generation
    assert all(same(a, b) for a, b in zip(whole.understanding[1:], alone.understanding, strict=True))
    assert torch.equal(whole.masked_images, alone.masked_images)  # type: ignore[arg-type]
    again, other_step, other_seed = (mixture.batch(STAGE, seed, step) for seed, step in ((0, 7), (0, 8), (1, 7)))
    assert same(again.generation[0], whole.generation[0])
    assert not same(other_step.generation[0], whole.generation[0])
    assert not same(other_seed.generation[0], whole.generation[0])


def test_texts_belong_to_their_images(mixture: SceneMixture, tokenizer: SceneTokenizer) -> None:
    """Every image of a batch is found among the training scenes, or questions, and its text is one of that scene."""
    batch = mixture.batch(STAGE, 0, 3)
    scenes = ScenesWorld(DATA.scenes).train(np.arange(64))
    questions = SceneQuestions(DATA.scenes).train(np.arange(64))

    def index(images: np.ndarray, image: torch.Tensor) -> list[int]:
        return np.flatnonzero((images == to_pixels(image[None])[0].numpy()).all((1, 2, 3))).tolist()

    for group, texts in ((batch.generation[0], [scenes.captions]),
                         (batch.understanding[0], [scenes.captions, scenes.dense_captions()])):  # fmt: skip
        assert group.images is not None
        for image, text in zip(group.images, tokenizer.decode(group.text_ids.numpy()), strict=True):
            assert text in [names[i] for i in index(scenes.images, image) for names in texts]
    asked = batch.understanding[1]
    assert asked.images is not None
    assert asked.answer_mask is not None
    for image, ids, mask in zip(asked.images, asked.text_ids, asked.answer_mask, strict=True):
        found = [(questions.questions[i], questions.answers[i]) for i in index(questions.images, image)]
        answer = tokenizer.decode(ids[mask].numpy()[None])[0]
        question = tokenizer.decode(ids[~mask].numpy()[None])[0]
        assert (question, answer) in found
