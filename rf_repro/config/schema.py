"""The experiment as nested frozen dataclasses. Each checks itself; `ExperimentConfig` checks what crosses fields, and asks what
it names (`rf_repro.config.registry`) whether the whole suits it; a `Literal` is checked where values come in (`overrides`).

A field whose value the paper does not give is marked `assumed` with its reason. Off is a first-class value
(`representation.kind = "none"`). Fields declared with `runtime_field` do not change results and stay out of the config hash.
Fields declared with `later_field` joined after records had been published: at their default, which is "off", they stay out too.
"""

import math
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

from rf_repro.config.data_schema import DataConfig
from rf_repro.config.fields import later_field, require, runtime_field
from rf_repro.config.model_schema import ModelConfig
from rf_repro.config.registry import ENCODERS, REPRESENTATIONS, SPACES, WORLDS
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.config.training_schema import ObjectiveConfig, OptimConfig, ParallelConfig, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.core.records import Action

# Of what runs compute: to be raised with every change that moves the golden losses (`tests/golden`), in whose test the two are
# tied. Hashes hold it from 2 on; runs of before are of version 1.
RESULTS_VERSION = 1


@dataclass(frozen=True)
class SamplingConfig:
    """Two-stage inference (App. A)."""

    steps: int = 25
    cfg_representation: float = 2.0  # w_rep
    cfg_pixel: float = 3.0  # w_pix
    top_k: int = 50  # assumed: the paper says top-k without k
    shift_base_patches: int = 256  # assumed: timestep shift alpha = sqrt(patches / this)
    batch_size: int = runtime_field(256)  # images; changes an image in its last bits at most

    def __post_init__(self) -> None:
        require(self.steps >= 1, "sampling.steps", self.steps, ">= 1")
        require(self.top_k >= 1, "sampling.top_k", self.top_k, ">= 1")
        require(self.shift_base_patches >= 1, "sampling.shift_base_patches", self.shift_base_patches, ">= 1")
        require(self.batch_size >= 1, "sampling.batch_size", self.batch_size, ">= 1")


@dataclass(frozen=True)
class EvalConfig:
    """GenEval on samples of the EMA weights, and questions about held-out images."""

    images_per_task: int = 200  # final score; GenEval has 4 images a prompt, scenes has fewer prompts and more images
    curve_images_per_task: int = 25  # at each `every` steps
    every: int = 500  # steps between points of the learning curve; 0: none
    questions_per_type: int = later_field(0)
    curve_questions_per_type: int = later_field(0)  # at each `every` steps

    def __post_init__(self) -> None:
        require(self.images_per_task >= 1, "evals.images_per_task", self.images_per_task, ">= 1")
        require(self.curve_images_per_task >= 1, "evals.curve_images_per_task", self.curve_images_per_task, ">= 1")
        require(self.every >= 0, "evals.every", self.every, ">= 0")
        for key in ("questions_per_type", "curve_questions_per_type"):
            require(getattr(self, key) >= 0, f"evals.{key}", getattr(self, key), ">= 0")


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything a result depends on besides the seed. `stages` run in order; shared ones come first."""

    scale: str
    stages: tuple[StageConfig, ...]
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    representation: RepresentationConfig = RepresentationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    sampling: SamplingConfig = SamplingConfig()
    evals: EvalConfig = EvalConfig()
    parallel: ParallelConfig = runtime_field(ParallelConfig(), later=True)
    checkpoint_every: int = runtime_field(250)  # steps

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        require(len(names) >= 1 and len(set(names)) == len(names), "stages", names, "at least one, names unique")
        shared = [stage.shared for stage in self.stages]
        require(shared == sorted(shared, reverse=True), "stages", names, "shared stages first")
        require(self.checkpoint_every >= 1, "checkpoint_every", self.checkpoint_every, ">= 1 step")
        for named in (WORLDS.get(self.data.world), ENCODERS.get(self.model.encoder.kind), SPACES.get(self.model.pixel.space),
                      REPRESENTATIONS.get(self.representation.kind)):  # fmt: skip
            named.check(self)

    @property
    def image_stride(self) -> int:
        """Sides of images are multiples of this, pixels: whole pooled features and whole pixel patches."""
        return math.lcm(2 * self.model.encoder.patch_size, self.model.pixel.patch_size)

    @property
    def max_image_size(self) -> int:
        """Pixels of the longest side of an image; tables of positions reach so far."""
        return WORLDS.get(self.data.world).max_image_size(self)

    @property
    def actions(self) -> tuple[Action, ...]:
        """What completes a run of a variant, in order."""
        found: tuple[Action, ...] = WORLDS.get(self.data.world).actions(self)
        return found

    def stage(self, name: str) -> StageConfig:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"stages.{name}: no such stage; there are {', '.join(s.name for s in self.stages)}")

    def to_dict(self) -> dict[str, Any]:
        """Nested JSON-ready dictionary of every field."""
        return _plain(self, results_only=False)

    def result_hash(self, version: int = RESULTS_VERSION) -> str:
        """SHA-256 over the fields that affect results, and the version of what runs compute: the run's identity together with
        its seed."""
        return content_hash(_plain(self, results_only=True) | ({"results_version": version} if version > 1 else {}))


def _plain(value: Any, results_only: bool) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _plain(getattr(value, item.name), results_only)
            for item in fields(value)
            if not results_only or _is_hashed(item, getattr(value, item.name))
        }
    if isinstance(value, tuple):
        return [_plain(item, results_only) for item in value]
    return value


def _is_hashed(item: Field[Any], value: Any) -> bool:
    if not item.metadata.get("affects_results", True):
        return False
    return not (item.metadata.get("later") and _plain(value, results_only=True) == _plain(item.default, results_only=True))
