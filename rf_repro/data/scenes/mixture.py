"""The training mixture: which samples step `n` of a stage sees, as a function of (seed, stage, n) alone."""

from functools import cached_property

import numpy as np
import torch

from rf_repro.config.data_schema import DataConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import PackedBatch, SampleGroup, to_images
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld

# Image descriptions, and text alone, name every object with its colour, or are the GenEval caption (assumed, as measured).
DENSE_CAPTION_SHARE = 0.7


class SceneMixture:
    """The scenes world's training set in memory, drawn from with replacement."""

    def __init__(self, config: DataConfig, tokenizer: SceneTokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        batch = ScenesWorld(config.scenes).train(np.arange(config.scenes.num_train))
        self.images = torch.from_numpy(batch.images)
        self.captions = torch.from_numpy(tokenizer.encode(batch.captions, config.caption_tokens))
        self.answers = torch.from_numpy(tokenizer.encode(batch.captions, config.answer_tokens))
        self.dense_answers = torch.from_numpy(tokenizer.encode(batch.dense_captions(), config.answer_tokens))

    @cached_property
    def questions(self) -> SampleGroup:
        """As many questions as scenes: images uint8 [N, S, S, 3], ids and where their answers are, int64 and bool [N, T]."""
        batch = SceneQuestions(self.config.scenes).train(np.arange(self.config.scenes.num_train))
        ids, mask = self.tokenizer.encode_questions(batch.questions, batch.answers, self.config.answer_tokens)
        return SampleGroup(torch.from_numpy(batch.images), torch.from_numpy(ids), torch.from_numpy(mask))

    def batch(self, stage: StageConfig, seed: int, step: int) -> PackedBatch:
        """The samples of a step, 1-based. Each kind has draws of its own, so that variants of a seed see the same samples of
        the kinds they share, whatever else they train on."""
        mixture = stage.mixture

        def draw(kind: str, count: int) -> tuple[torch.Tensor, torch.Generator]:
            generator = torch.Generator().manual_seed(derive_seed("data", stage.name, seed, step, kind))
            return torch.randint(len(self.images), (count,), generator=generator), generator

        generation = []
        if mixture.generation:
            chosen, _ = draw("generation", mixture.generation)
            generation.append(SampleGroup(to_images(self.images[chosen]), self.captions[chosen]))
        understanding = []
        if mixture.understanding:
            chosen, generator = draw("understanding", mixture.understanding)
            understanding.append(SampleGroup(to_images(self.images[chosen]), self._descriptions(chosen, generator)))
        if mixture.questions:
            chosen, _ = draw("questions", mixture.questions)
            asked = self.questions
            assert asked.images is not None
            assert asked.answer_mask is not None
            images = to_images(asked.images[chosen])
            understanding.append(SampleGroup(images, asked.text_ids[chosen], asked.answer_mask[chosen]))
        if mixture.text:
            chosen, generator = draw("text", mixture.text)
            understanding.append(SampleGroup(None, self._descriptions(chosen, generator)))
        masked = None
        if mixture.masked_image:
            masked = to_images(self.images[draw("masked_image", mixture.masked_image)[0]])
        return PackedBatch(tuple(generation), tuple(understanding), masked)

    def _descriptions(self, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        dense = torch.rand(len(chosen), generator=generator) < DENSE_CAPTION_SHARE
        return torch.where(dense[:, None], self.dense_answers[chosen], self.answers[chosen])
