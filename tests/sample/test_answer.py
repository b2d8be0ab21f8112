"""Cached greedy answers against plain full forwards."""

import numpy as np
import pytest
import torch

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packing import to_images
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.model.initialise import initialise
from rf_repro.model.inputs import UnderstandingInput
from rf_repro.model.rf_model import RFModel
from rf_repro.worlds.scenes.answers import answer_questions
from tests.model.small import run, small_config

CONFIG = small_config()
TOKENIZER = SceneTokenizer(CONFIG.data.scenes)
BATCH = SceneQuestions(CONFIG.data.scenes).held_out(4)
MOST = 5
EOS = TOKENIZER.eos_id


def model_that_talks(config: ExperimentConfig) -> RFModel:
    """Random weights, large enough that answers differ from image to image and some come to an end."""
    model = RFModel(config, TOKENIZER.vocab_size)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(9 if config.model.decoder.num_experts else 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def reference(model: RFModel, image: np.ndarray, question: str) -> list[int]:
    """One question alone; every token by a forward over the whole sequence."""
    pixels = to_images(torch.from_numpy(image[None]))
    ids = TOKENIZER.encode([question], len(question.split()) + 2)[0, :-1].tolist()
    answer: list[int] = []
    while len(answer) < MOST and EOS not in answer:
        _, (logits,) = run(model, [], [UnderstandingInput(pixels, torch.tensor([ids + answer]))])
        answer.append(int(logits[0, -1].argmax()))
    return answer


CONFIGS = {
    "rf": CONFIG,
    "vlm only": small_config(representation__kind="none", model__pixel__space="none", stages__joint__mixture__generation=0),
    "sparse": small_config(model__decoder__num_experts=4, model__decoder__num_active_experts=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_answers_equal_full_forwards_whatever_the_batch(config: ExperimentConfig) -> None:
    model = model_that_talks(config)
    expected = [reference(model, image, question) for image, question in zip(BATCH.images, BATCH.questions, strict=True)]
    lengths = {len(answer) for answer in expected if answer[-1] == EOS}
    assert len(lengths) >= 2, "the model must end some answers early, for the test to mean something"
    assert any(EOS not in answer for answer in expected)
    assert len({tuple(answer) for answer in expected}) > 20
    texts = TOKENIZER.decode_answers(expected)
    for batch_size in (1, 3, 100):
        assert answer_questions(model, BATCH.images, BATCH.questions, TOKENIZER, MOST, batch_size) == texts
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = answer_questions(model, BATCH.images[order], [BATCH.questions[i] for i in order], TOKENIZER, MOST, 4)
    assert shuffled == [texts[i] for i in order]


def test_an_answer_is_cut_off_at_the_limit() -> None:
    model = model_that_talks(CONFIG)
    full = answer_questions(model, BATCH.images, BATCH.questions, TOKENIZER, MOST, 8)
    for limit in (1, 2):
        short = answer_questions(model, BATCH.images, BATCH.questions, TOKENIZER, limit, 8)
        assert short == [" ".join(answer.split()[:limit]) for answer in full]


def test_the_image_matters() -> None:
    model = model_that_talks(CONFIG)
    first = answer_questions(model, BATCH.images, BATCH.questions, TOKENIZER, MOST, 8)
    assert first != answer_questions(model, BATCH.images[::-1].copy(), BATCH.questions, TOKENIZER, MOST, 8)


def test_what_cannot_be_answered_is_refused() -> None:
    model = model_that_talks(CONFIG)
    with pytest.raises(UserError, match="unknown word 'dog'"):
        answer_questions(model, BATCH.images[:1], ["what is the dog ?"], TOKENIZER, MOST, 8)
    with pytest.raises(ValueError, match="2 images for 1 questions"):
        answer_questions(model, BATCH.images[:2], BATCH.questions[:1], TOKENIZER, MOST, 8)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        answer_questions(model, BATCH.images[:1], BATCH.questions[:1], TOKENIZER, 0, 8)
