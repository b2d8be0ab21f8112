"""What is trained on, and all that follows from it: one package a world, its name in configs (`data.world`).

A world has a tokenizer, data with a place to resume from, what warms targets up, a reader of prompts, a workload to estimate, and
the hooks by which a run is sampled and scored. Nothing else asks which world it is. The worlds import no torch before they read
or draw something.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rf_repro.config.prerequisites import PrerequisiteKind
from rf_repro.config.registry import WORLDS
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.records import ACTIONS, Action
from rf_repro.core.run_dir import RunDir

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rf_repro.compute.ranks import Ranks
    from rf_repro.model.space import ImageSpace
    from rf_repro.model.workload import Workload
    from rf_repro.sample.prompts import Captions, PromptReader
    from rf_repro.train.data import Tokenizer, TrainingData
    from rf_repro.train.encoder_pretraining import EncoderPretraining
    from rf_repro.train.trainer import Trainer

Size = tuple[int, int]  # (height, width) of an image in pixels
Progress = Callable[[str, int, int], None]  # (phase, done, total); raises Stopped when the work is to end


@dataclass(frozen=True)
class Piece:
    """Work of a run besides its steps, in images drawn and scored and questions answered; and the file that says it is done."""

    record: str
    drawn: int = 0
    scored: int = 0
    answered: int = 0


class World(ABC):
    """A world. Its hooks for scores do nothing where it has nothing to score.

    Attributes:
        scores_itself: whether a run is sampled and scored as it ends, on the world's own questions. Otherwise its images and
            answers are made by commands of their own, which name prompts, sizes and judges.
    """

    scores_itself = True
    reads_shards = False  # whether its data are files of the user's, named by `data.sources`

    # Configs

    def check(self, config: ExperimentConfig) -> None:  # noqa: B027 (a hook)
        """Raises UserError where the config does not suit the world."""

    @abstractmethod
    def max_image_size(self, config: ExperimentConfig) -> int:
        """Pixels of the longest side of an image."""

    def drawn_size(self, config: ExperimentConfig) -> int:
        """Pixels of the longest side of the images that a run learns to draw."""
        return self.max_image_size(config)

    def label(self, config: ExperimentConfig) -> str:
        """What titles of reports say of it."""
        return f"{config.data.world}, {self.max_image_size(config)} px"

    def actions(self, config: ExperimentConfig) -> tuple[Action, ...]:
        """What completes a run of a variant, in order; without generation there is nothing to sample."""
        from rf_repro.model.spaces import space_of

        if not self.scores_itself:
            return ("train",)
        return ACTIONS if space_of(config.model).generates else ("train", "evaluate")

    def check_run(self, config: ExperimentConfig) -> None:  # noqa: B027 (a hook)
        """Raises UserError where a valid config cannot be run as it stands: it names no data, say."""

    # Data

    @abstractmethod
    def tokenizer(self, config: ExperimentConfig) -> "Tokenizer":
        """Raises UserError where it cannot be read."""

    @abstractmethod
    def data(
        self,
        config: ExperimentConfig,
        stage: StageConfig,
        seed: int,
        tokenizer: "Tokenizer",
        ranks: "Ranks",
        device: "torch.device",
    ) -> "TrainingData":
        """A stage's samples, as this rank reads them for its device, or for the CPU, from where the trainer moves them."""

    @abstractmethod
    def fingerprint(self, config: ExperimentConfig) -> str:
        """Of what the config trains on."""

    def component_data(self, config: ExperimentConfig) -> "tuple[Tensor, Tensor]":
        """Images uint8 [N, S, S, 3], and a description of each, int64 [N, T]: what in-suite encoders and VAEs are trained on."""
        raise UserError(f"data.world={config.data.world!r}: has no images of one size to train an encoder or a VAE on; name "
                        "pretrained ones")  # fmt: skip

    # Prompts

    def check_size(self, config: ExperimentConfig, size: Size | None) -> Size:
        """The size (height, width) to draw; None: the world's usual one. Raises UserError where it cannot be drawn."""
        raise UserError(f"data.world={config.data.world}: is not drawn from prompts of one's own")

    def captions(self, config: ExperimentConfig, texts: Sequence[str]) -> "Captions":
        """Raises UserError where a text is empty, too long, or has words that the world lacks."""
        raise UserError(f"data.world={config.data.world}: reads no prompts of one's own")

    def reader(self, config: ExperimentConfig) -> "PromptReader":
        """How a model of this world reads questions and spells answers."""
        raise UserError(f"data.world={config.data.world}: asks no questions from outside")

    def export_tokenizer(self, config: ExperimentConfig, folder: Path) -> None:  # noqa: B027 (a hook)
        """Writes the tokenizer beside an exported language model, where there is one to write."""

    # Cost

    def workload(self, config: ExperimentConfig, stage: StageConfig, ranks: int) -> "Workload":
        """The mean pass of each of `ranks` ranks. Raises UserError where they cannot share a step, or no pack holds a sample."""
        raise UserError(f"data.world={config.data.world}: says nothing of its samples' sizes, so nothing can be estimated")

    def extreme_packs(self, config: ExperimentConfig, stage: StageConfig, ranks: int) -> "dict[str, Workload]":
        """What makes a pack extreme -> the pack: those that memory must suffice for."""
        return {"the batch": self.workload(config, stage, ranks)}

    def for_measuring(self, config: ExperimentConfig) -> ExperimentConfig:
        """As much of the world as it takes to measure how long a step takes."""
        return config

    def pieces(self, config: ExperimentConfig, kind: PrerequisiteKind | None) -> list[Piece]:
        """What completes a run besides its steps, in order; `kind`: of a prerequisite, None: a variant."""
        return []

    def speeds(self, trainer: "Trainer") -> Iterator[tuple[str, float]]:
        """(unit, seconds) of `draw`, `score` and `answer`, measured with the trainer's model."""
        yield from ()

    # Scores

    def check_stage(self, config: ExperimentConfig, run: RunDir, progress: Progress) -> None:  # noqa: B027 (a hook)
        """Gates of the world's own evaluators, once for each shared stage."""

    def check_encoder(self, training: "EncoderPretraining", run: RunDir) -> None:  # noqa: B027 (a hook)
        """Gate of an encoder pretrained in-suite."""

    def check_vae(  # noqa: B027 (a hook)
        self, config: ExperimentConfig, space: "ImageSpace", run: RunDir, progress: Progress, device: "torch.device"
    ) -> None:
        """Gate of a VAE trained in-suite."""

    def score_step(self, trainer: "Trainer", run: RunDir, progress: Progress) -> None:  # noqa: B027 (a hook)
        """A point of the learning curve, once a step."""

    def sample(self, trainer: "Trainer", run: RunDir, progress: Progress) -> None:  # noqa: B027 (a hook)
        """The images to be scored, into the run."""

    def evaluate(self, trainer: "Trainer", run: RunDir, progress: Progress) -> None:  # noqa: B027 (a hook)
        """All scores of a finished run that it does not have yet."""


def world_of(config: ExperimentConfig) -> World:
    """The world that a config names. Raises UserError where there is none of that name."""
    return named_world(config.data.world)


def named_world(name: str) -> World:
    """The world of that name, a value of `data.world`. Raises UserError where there is none."""
    return cast(World, WORLDS.get(name))
