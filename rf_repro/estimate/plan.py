"""What the runs behind the paper's tables cost on some GPUs: each run once, shared stages once, and whether they fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from ablations.grid import Variant
from ablations.registry import GRIDS, get_grid
from rf_repro.config.schema import ExperimentConfig, StageConfig
from rf_repro.config.shared import shared_runs
from rf_repro.core.errors import UserError
from rf_repro.estimate.flops import Cost, step_flops
from rf_repro.estimate.gpus import GPU, GPUS
from rf_repro.estimate.memory import Memory, stage_memory
from rf_repro.estimate.parameters import Parameters, count_parameters
from rf_repro.estimate.workload import Workload, make_workload

# Model FLOPs over the GPUs' peak. Published for mixtures of this kind on H100: BAGEL's own code 0.18, BAGEL in Megatron-Bridge
# 0.24, Qwen3-30B-A3B in NeMo AutoModel 0.28; a dense Llama 3.1 8B in torchtitan 0.33 to 0.41.
DEFAULT_MFU = 0.24
MAX_GPUS = 8192  # beyond which no remedy is looked for
MIN_TOKENS = 4096


@dataclass(frozen=True)
class Cluster:
    """Where and how: `shard_group` GPUs share one copy of the states, copies are kept alike."""

    gpu: GPU
    gpus: int
    shard_group: int
    checkpointing: bool = True
    mfu: float = DEFAULT_MFU

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus {self.gpus}: must be >= 1")
        if self.shard_group < 1 or self.gpus % self.shard_group:
            raise UserError(f"--shard-group {self.shard_group}: must be a divisor of --gpus {self.gpus}")
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
        return self.work.num_tokens * self.cluster.gpus / self.step_seconds

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
    """A run: the stages it trains itself. `tables` name it among their rows, or start from it."""

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

    @property
    def by_stage(self) -> dict[str, float]:
        """GPU hours of each stage over all runs. The paper scores its ablations at the joint stage's resolution, so they could
        stop before the last stage; here every row is trained through all of them."""
        hours: dict[str, float] = {}
        for run in self.runs:
            for stage in run.stages:
                hours[stage.stage.name] = hours.get(stage.stage.name, 0.0) + stage.gpu_hours
        return hours

    def of_table(self, table: str) -> tuple[RunEstimate, ...]:
        """The runs a table needs, with those that other tables need too."""
        return tuple(run for run in self.runs if table in run.tables)


def estimate_stage(config: ExperimentConfig, stage: StageConfig, cluster: Cluster) -> StageEstimate:
    """One stage. Raises UserError where the config lacks a size, or a step cannot be shared out."""
    parameters, work = count_parameters(config), make_workload(config, stage, cluster.gpus)
    memory = stage_memory(config, stage, parameters, work, cluster.shard_group, cluster.checkpointing)
    return StageEstimate(config, stage, cluster, parameters, work, step_flops(config, stage, parameters, work), memory)


def estimate_plan(base: ExperimentConfig, tables: Sequence[str], cluster: Cluster) -> Plan:
    """Every run behind the tables, or behind all with `["all"]`.

    A run that several tables share counts once: rows whose configs differ in nothing that affects results are one run.

    Raises:
        UserError: unknown table, or as of `estimate_stage`.
    """
    shared: dict[tuple[str, str], RunEstimate] = {}
    variants: dict[str, RunEstimate] = {}
    left_out: dict[str, None] = {}
    grids = [get_grid(name) for name in (GRIDS if "all" in tables else tables)]
    for grid in grids:
        for row in grid.rows:
            config = row.config(base)
            for run in shared_runs(config):
                key = run.name, run.config.result_hash()
                if run.name in ("stage-encoder", "stage-vae"):
                    left_out[run.name] = None
                elif key not in shared:
                    shared[key] = RunEstimate(run.name, (estimate_stage(run.config, run.config.stages[-1], cluster),))
                if key in shared and grid.name not in shared[key].tables:
                    shared[key].tables.append(grid.name)
            digest = config.result_hash()
            if digest not in variants:
                variants[digest] = RunEstimate(row.key, own_stages(config, cluster))
            variants[digest].tables.append(grid.name)
    return Plan(tuple(grid.name for grid in grids), (*shared.values(), *variants.values()), tuple(left_out))


def own_stages(config: ExperimentConfig, cluster: Cluster) -> tuple[StageEstimate, ...]:
    """The stages that a variant does not share."""
    return tuple(estimate_stage(config, stage, cluster) for stage in config.stages if not stage.shared)


def find_variant(key: str) -> Variant:
    """The row of that key in any table. Raises UserError when there is none."""
    rows = {row.key: row for grid in GRIDS.values() for row in grid.rows}
    if key not in rows:
        raise UserError(f"--variant {key!r}: unknown; choose one of {', '.join(rows)}")
    return rows[key]


def check_fits(run: RunEstimate) -> None:
    """Raises UserError where a stage needs more memory than a GPU has: by how much, for what, and what mends it."""
    for estimate in run.stages:
        if not estimate.missing:
            continue
        memory, gpu = estimate.memory, estimate.cluster.gpu
        largest = sorted(memory.at_peak.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name.replace('_', ' ')} {size / 1e9:,.1f}" for name, size in largest)
        remedies = list(_remedies(estimate))
        advice = f"it fits with {', or '.join(remedies)}" if remedies else "no number of such GPUs holds it; make it smaller"
        raise UserError(
            f"{run.name}, stage {estimate.stage.name}, {memory.peak_phase}: needs {memory.peak / 1e9:,.1f} GB a GPU, "
            f"{estimate.missing / 1e9:,.1f} GB more than {gpu.name}'s {gpu.memory / 1e9:,.0f}; largest: {parts} GB; {advice}"
        )


def _remedies(estimate: StageEstimate) -> Iterator[str]:
    """Options that make the stage fit, each alone, the cheapest first; all of them together where none does alone."""
    cluster, stage = estimate.cluster, estimate.stage

    def fits(other: Cluster, tokens: int = stage.tokens_per_rank) -> bool:
        try:
            return not estimate_stage(estimate.config, replace(stage, tokens_per_rank=tokens), other).missing
        except UserError:  # a step that cannot be shared out so is no remedy
            return False

    def first(options: Iterable[int], accepted: Callable[[int], bool]) -> int | None:
        return next((option for option in options if accepted(option)), None)

    checkpointed = replace(cluster, checkpointing=True)
    larger = [cluster.gpus * 2**power for power in range(1, 12) if cluster.gpus * 2**power <= MAX_GPUS]
    found = False
    if not cluster.checkpointing and fits(checkpointed):
        found = True
        yield "activation checkpointing"
    groups = (size for size in range(cluster.shard_group + 1, cluster.gpus + 1) if cluster.gpus % size == 0)
    if group := first(groups, lambda size: fits(replace(cluster, shard_group=size))):
        found = True
        yield f"--shard-group {group}"
    if gpus := first(larger, lambda count: fits(replace(cluster, gpus=count, shard_group=count))):
        found = True
        yield f"--gpus {gpus}"
    halves = takewhile(lambda tokens: tokens >= MIN_TOKENS, (stage.tokens_per_rank >> power for power in range(1, 16)))
    if tokens := first(halves, lambda count: fits(cluster, count)):
        found = True
        yield f"--set stages.{stage.name}.tokens_per_rank={tokens}"
    if kinds := [gpu.name for gpu in GPUS.values() if gpu.name != cluster.gpu.name and fits(replace(cluster, gpu=gpu))]:
        found = True
        yield f"--gpu {kinds[0]}"
    if not found and (gpus := first(larger, lambda count: fits(replace(checkpointed, gpus=count, shard_group=count)))):
        yield f"--gpus {gpus} and activation checkpointing"
