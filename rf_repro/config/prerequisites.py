"""What variants start from, each trained once: the encoder, the shared stages, the VAE, and their own earlier stages."""

from dataclasses import dataclass, replace
from typing import Literal

from rf_repro.config.model_schema import ModelConfig, PixelConfig, VAEConfig
from rf_repro.config.registry import SPACES
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.config.schema import EvalConfig, ExperimentConfig, SamplingConfig
from rf_repro.config.training_schema import StageConfig

PrerequisiteKind = Literal["encoder", "stage", "vae", "own stage"]


@dataclass(frozen=True)
class Prerequisite:
    """A run that a variant starts from, trained before the variant's last stage begins.

    Attributes:
        kind: `encoder`: the encoder's own pretraining; `stage`: a stage that all variants share; `vae`: the VAE of the VAE
            variants; `own stage`: an earlier stage of the variant itself, which has the variant's seed, and whose averages and
            codebook go on. The others are trained once, whoever asks first.
        name: of the run's directory, e.g. `stage-pretrain`.
        after: names of those it starts from itself.
        key: of an own stage, the variant's. It is the run of a row that ends there, of which its training alone is needed.
    """

    kind: PrerequisiteKind
    name: str
    config: ExperimentConfig
    after: tuple[str, ...] = ()
    key: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it belongs to one variant and seed."""
        return self.kind == "own stage"

    @property
    def is_stage(self) -> bool:
        """Whether it trains the model itself; others train a component alone."""
        return self.kind in ("stage", "own stage")


def run_name(key: str, config: ExperimentConfig) -> str:
    """The name of a row's run, which its directory and its record have: the row's key where the run ends with the first stage
    that is not shared, else with its last stage's name, e.g. `pixel_rf-continued`."""
    return own_names(key, config)[-1]


def own_names(key: str, config: ExperimentConfig) -> list[str]:
    """The names of a row's runs, one for each stage that is not shared: the last is that of `config`."""
    own = [stage.name for stage in config.stages if not stage.shared]
    return [key, *(f"{key}-{name}" for name in own[1:])]


def prerequisites(config: ExperimentConfig, key: str) -> list[Prerequisite]:
    """What must be trained before the last stage of a row's run, in order: what it shares, and its own earlier stages, where
    there are any. An own stage is the very run, by name and hash, of the same row in a table that ends with that stage.

    Args:
        key: of the row.
    """
    runs = shared_runs(config)
    own = [index for index, stage in enumerate(config.stages) if not stage.shared]
    for index, name in zip(own[:-1], own_names(key, config), strict=False):  # the last name is the run's itself
        below = replace(config, stages=config.stages[: index + 1])
        runs.append(Prerequisite("own stage", name, below, tuple(run.name for run in runs), key))
    return runs


def shared_runs(config: ExperimentConfig) -> list[Prerequisite]:
    """What is trained once for all variants that need it, in order: the encoder, the shared stages, the VAE.

    What a run does not depend on is set to its default, so that all variants that can share it ask for the same one.
    """
    runs: list[Prerequisite] = []
    encoder, vae = config.model.encoder, config.model.vae
    if encoder.pretraining.kind != "none":
        stage = StageConfig(name="encoder", steps=encoder.pretraining.steps, learning_rate=encoder.pretraining.learning_rate,
                            shared=True)  # fmt: skip
        runs.append(Prerequisite("encoder", "stage-encoder", _component(config, stage, ModelConfig(encoder=encoder))))
    for index, stage in enumerate(config.stages):
        if stage.shared:
            model = replace(
                config.model,
                decoder=replace(config.model.decoder, distance_bias=False, time_conditioning="adaln"),
                pixel=PixelConfig(space="none"),
                vae=VAEConfig(),
            )
            below = replace(
                config, stages=config.stages[: index + 1], model=model, representation=RepresentationConfig(),
                sampling=SamplingConfig(), evals=EvalConfig(),
            )  # fmt: skip
            runs.append(Prerequisite("stage", f"stage-{stage.name}", below, tuple(run.name for run in runs)))
    if SPACES.get(config.model.pixel.space).is_trained_first(config.model):
        stage = StageConfig(name="vae", steps=vae.steps, learning_rate=vae.learning_rate, shared=True)
        # The encoder has no part in it, but its patches must fit the scale's images for the config to be valid.
        fitting = ModelConfig(vae=vae, encoder=replace(ModelConfig().encoder, patch_size=encoder.patch_size))
        runs.append(Prerequisite("vae", "stage-vae", _component(config, stage, fitting)))
    return runs


def _component(config: ExperimentConfig, stage: StageConfig, model: ModelConfig) -> ExperimentConfig:
    """The config of a component that is trained alone: on the same data, with nothing else of the variant."""
    alone = replace(model, pixel=PixelConfig(space="none"))
    return ExperimentConfig(config.scale, (stage,), data=config.data, model=alone, checkpoint_every=config.checkpoint_every)
