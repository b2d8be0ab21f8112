"""The scenes' samples as the trainer asks for them: held in memory, a step's shared out among the ranks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.training_schema import MixtureConfig, StageConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.data.scenes.mixture import SceneMixture
from rf_repro.train.data import OwnPack
from rf_repro.train.objective import own_part

WARMUP_IMAGES = 128  # in each codebook warm-up batch
INITIAL_BATCHES = 16  # of those, whose features targets start from


class SceneData:
    """Samples of a step are a function of (stage, seed, step); see `SceneMixture`."""

    def __init__(self, mixture: SceneMixture, stage: StageConfig, seed: int, ranks: Ranks = ALONE) -> None:
        self.mixture, self.stage, self.seed, self.ranks = mixture, stage, seed, ranks

    def packs(self, step: int) -> list[OwnPack]:
        generator = torch.Generator().manual_seed(derive_seed("step", self.stage.name, self.seed, step))
        return [OwnPack(self.mixture.batch(self.stage, self.seed, step), generator, self.ranks)]

    def first_features(self, features_of: Callable[[list[Tensor]], Tensor], wanted: int) -> Tensor:
        """Batch by batch, so that the rows stand in the same order for any number of ranks."""
        return torch.cat([features_of([self._images(-index)]) for index in range(INITIAL_BATCHES)])

    def warm_up_images(self, count: int) -> Iterator[Tensor]:
        return (self._images(1 + index) for index in range(count))

    def _images(self, index: int) -> Tensor:
        """This rank's share of a warm-up batch."""
        only_images = replace(self.stage, name="codebook", mixture=MixtureConfig(generation=WARMUP_IMAGES, understanding=0))
        group = own_part(self.mixture.batch(only_images, self.seed, index).generation[0], self.ranks)
        assert group.images is not None
        return group.images

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self, ranks: Ranks) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass
