"""The training mixture: which samples step `n` of a stage sees, as a function of (seed, stage, n) alone."""

import numpy as np
import torch

from rf_repro.config.schema import DataConfig, StageConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import PackedBatch, SampleGroup, to_images
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld

# Understanding samples ask for every object with its colour, or for the GenEval caption (assumed, as measured at `tiny`).
DENSE_CAPTION_SHARE = 0.7


class SceneMixture:
    """The scenes world's training set in memory, drawn from with replacement."""

    def __init__(self, config: DataConfig, tokenizer: SceneTokenizer) -> None:
        batch = ScenesWorld(config.scenes).train(np.arange(config.scenes.num_train))
        self.images = torch.from_numpy(batch.images)
        self.captions = torch.from_numpy(tokenizer.encode(batch.captions, config.caption_tokens))
        self.answers = torch.from_numpy(tokenizer.encode(batch.captions, config.answer_tokens))
        self.dense_answers = torch.from_numpy(tokenizer.encode(batch.dense_captions(), config.answer_tokens))

    def batch(self, stage: StageConfig, seed: int, step: int) -> PackedBatch:
        """The samples of a step, 1-based; the same for every variant of a seed."""
        generator = torch.Generator().manual_seed(derive_seed("data", stage.name, seed, step))
        mixture = stage.mixture

        def draw(count: int) -> torch.Tensor:
            return torch.randint(len(self.images), (count,), generator=generator)

        generation, understanding, masked = draw(mixture.generation), draw(mixture.understanding), draw(mixture.masked_image)
        dense = torch.rand(mixture.understanding, generator=generator) < DENSE_CAPTION_SHARE
        groups = SampleGroup(to_images(self.images[generation]), self.captions[generation])
        answers = torch.where(dense[:, None], self.dense_answers[understanding], self.answers[understanding])
        return PackedBatch(
            generation=(groups,) if mixture.generation else (),
            understanding=(SampleGroup(to_images(self.images[understanding]), answers),) if mixture.understanding else (),
            masked_images=to_images(self.images[masked]) if mixture.masked_image else None,
        )
