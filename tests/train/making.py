"""Trainers with their data, as `rf_repro.experiment.run.make_trainer` makes them, of any stage and class."""

from typing import Any, TypeVar

import torch

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.train.encoder_pretraining import EncoderPretraining
from rf_repro.train.trainer import Trainer
from rf_repro.worlds import world_of

CPU = torch.device("cpu")
T = TypeVar("T", bound=Trainer)


def trainer_of(
    config: ExperimentConfig, stage: StageConfig | None = None, seed: int = 0, ranks: Ranks = ALONE, *,
    kind: type[T] = Trainer, **more: Any,
) -> T:  # fmt: skip
    """Of the config's first stage, unless another is named."""
    stage, world = stage or config.stages[0], world_of(config)
    tokenizer = world.tokenizer(config)
    return kind(config, stage, seed, CPU, world.data(config, stage, seed, tokenizer, ranks, CPU), tokenizer, ranks=ranks, **more)


def pretraining_of(config: ExperimentConfig, seed: int = 0, ranks: Ranks = ALONE) -> EncoderPretraining:
    """Of a config whose one stage is an encoder's own pretraining."""
    world = world_of(config)
    return EncoderPretraining(config, seed, CPU, *world.component_data(config), world.tokenizer(config).vocab_size, ranks)
