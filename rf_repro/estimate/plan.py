"""What the runs behind the paper's tables cost on some GPUs: each run once, shared stages once, and whether they fit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablations.grid import AblationGrid
from ablations.registry import GRIDS, get_grids
from rf_repro.config.prerequisites import own_names, shared_runs
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.estimate.flops import Cost, step_flops
from rf_repro.estimate.gpus import GPU
from rf_repro.estimate.memory import Memory, stage_memory
from rf_repro.estimate.parameters import Parameters, count_parameters
from rf_repro.model.workload import Workload
from rf_repro.worlds import world_of

# Model FLOPs over the GPUs' peak. Published for mixtures of this kind on H100: BAGEL's own code 0.18, BAGEL in Megatron-Bridge
# 0.24, Qwen3-30B-A3B in NeMo AutoModel 0.28; a dense Llama 3.1 8B in torchtitan 0.33 to 0.41.
DEFAULT_MFU = 0.24


@dataclass(frozen=True)
class Cluster:
    """GPUs that train one run together, and the share of their peak that they reach."""

    gpu: GPU
    gpus: int
    mfu: float = DEFAULT_MFU

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus {self.gpus}: must be >= 1")
        if not 0 < self.mfu <= 1:
            raise UserError(f"--mfu {self.mfu}: must be in (0, 1]")


@dataclass(frozen=True)
class StageEstimate:
    """One stage of one run. FLOPs and memory are a GPU's, tokens and hours all GPUs'."""

    config: ExperimentConfig
    stage: StageConfig
    cluster: Cluster
    parameters: Parameters
    work: Workload
    flops: dict[str, Cost]
    memory: Memory

    @property
    def step_flops(self) -> int:
        """Forward and backward, without what checkpointing computes again."""
        return sum(cost.training for cost in self.flops.values())

    @property
    def step_seconds(self) -> float:
        return self.step_flops / (self.cluster.gpu.flops * self.cluster.mfu)

    @property
    def tokens_per_second(self) -> float:
        return self.work.step_tokens / self.step_seconds

    @property
    def hours(self) -> float:
        return self.step_seconds * self.stage.steps / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.cluster.gpus

    @property
    def trained(self) -> int:
        """Parameters that the optimiser steps."""
        return self.parameters.trained(self.stage).total

    @property
    def missing(self) -> int:
        """Bytes by which a GPU is too small; 0 where it is large enough."""
        return max(0, self.memory.peak - self.cluster.gpu.memory)


@dataclass(frozen=True)
class RunEstimate:
    """A run: the stages it trains itself. `tables` name it among their rows, or go on from it."""

    name: str
    stages: tuple[StageEstimate, ...]
    tables: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours for stage in self.stages)


@dataclass(frozen=True)
class Plan:
    """Runs in training order, shared stages first; the tables they are for; the in-suite components that are not estimated."""

    tables: tuple[str, ...]
    runs: tuple[RunEstimate, ...]
    left_out: tuple[str, ...]

    @property
    def gpu_hours(self) -> float:
        return sum(run.gpu_hours for run in self.runs)

    @property
    def hours(self) -> float:
        """One run after another, each on all GPUs."""
        return sum(run.hours for run in self.runs)

    def of_table(self, table: str) -> tuple[RunEstimate, ...]:
        """The runs a table needs, with those that other tables need too."""
        return tuple(run for run in self.runs if table in run.tables)


def by_stage(runs: Sequence[RunEstimate]) -> dict[str, float]:
    """GPU hours of each stage over some runs."""
    hours: dict[str, float] = {}
    for run in runs:
        for stage in run.stages:
            hours[stage.stage.name] = hours.get(stage.stage.name, 0.0) + stage.gpu_hours
    return hours


def estimate_stage(
    config: ExperimentConfig, stage: StageConfig, cluster: Cluster, parameters: Parameters | None = None
) -> StageEstimate:
    """One stage. `parameters`: those of the config, if they have been counted. Raises UserError where a step cannot be shared
    out."""
    parameters = count_parameters(config) if parameters is None else parameters
    work = world_of(config).workload(config, stage, cluster.gpus)
    memory = stage_memory(config, stage, parameters, cluster.gpus)
    return StageEstimate(config, stage, cluster, parameters, work, step_flops(config, stage, parameters, work), memory)


def estimate_plan(base: ExperimentConfig, tables: Sequence[str], cluster: Cluster) -> Plan:
    """Every run behind the tables, or behind all with `["all"]`.

    Each row is trained up to its table's last stage. A run that several tables share counts once: rows whose configs differ in
    nothing that affects results are one run, and one that goes on from another row's run trains only what is beyond it.

    Raises:
        UserError: unknown table, or as of `estimate_stage`.
    """
    shared: dict[tuple[str, str], RunEstimate] = {}
    variants: dict[str, RunEstimate] = {}
    left_out: dict[str, None] = {}
    grids = get_grids(tables, base)
    for grid in grids:
        for row in grid.rows:
            config = grid.config(row, base)
            for run in shared_runs(config):
                key = run.name, run.config.result_hash()
                if not run.is_stage:
                    left_out[run.name] = None
                elif key not in shared:
                    shared[key] = RunEstimate(run.name, (estimate_stage(run.config, run.config.stages[-1], cluster),))
                if key in shared:
                    _note(shared[key], grid)
            for name, digest, stage in _own_runs(row.run_key(base), config, cluster, variants):
                _note(variants.setdefault(digest, RunEstimate(name, (stage,))), grid)
    return Plan(tuple(grid.name for grid in grids), (*shared.values(), *variants.values()), tuple(left_out))


def _note(run: RunEstimate, grid: AblationGrid) -> None:
    if grid.name not in run.tables:
        run.tables.append(grid.name)


def _own_runs(
    key: str, config: ExperimentConfig, cluster: Cluster, known: Mapping[str, RunEstimate]
) -> Iterator[tuple[str, str, StageEstimate]]:
    """(name, config hash, last stage) of a row's runs, one for each stage that it does not share."""
    parameters: Parameters | None = None
    own = [index for index, stage in enumerate(config.stages) if not stage.shared]
    for index, name in zip(own, own_names(key, config), strict=True):
        below = replace(config, stages=config.stages[: index + 1])
        digest = below.result_hash()
        if digest in known:
            yield name, digest, known[digest].stages[-1]
            continue
        parameters = parameters or count_parameters(config)
        yield name, digest, estimate_stage(below, below.stages[-1], cluster, parameters)


def own_stages(config: ExperimentConfig, cluster: Cluster) -> tuple[StageEstimate, ...]:
    """The stages that a variant does not share."""
    parameters = count_parameters(config)
    return tuple(estimate_stage(config, stage, cluster, parameters) for stage in config.stages if not stage.shared)


def find_grid(key: str, first: Iterable[AblationGrid] = ()) -> AblationGrid:
    """The first table with a row of that key: of those given, then of ours. Raises UserError when there is none."""
    grids: dict[str, AblationGrid] = {}
    for grid in (*first, *GRIDS.values()):
        for row in grid.rows:
            grids.setdefault(row.key, grid)
    if key not in grids:
        raise UserError(f"--variant {key!r}: unknown; choose one of {', '.join(grids)}")
    return grids[key]
