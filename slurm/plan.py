"""What a grid still needs, derived from files alone: planning twice, or after any crash, gives the same answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablations.grid import Variant
from ablations.registry import GRIDS, get_grid
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.shared import shared_runs
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import lock_holder

State = Literal["done", "partial", "missing", "failed", "running"]


@dataclass(frozen=True)
class Job:
    """One run to complete: a shared stage, or a variant that starts from shared stages.

    Attributes:
        run: the run's directory, which may not exist yet.
        variant: the variant's key, or the stage's run name, e.g. `stage-pretrain`.
        stage_seed: seed of the shared stages that a variant starts from.
        after: run directories that must be done first.
    """

    kind: Literal["stage", "variant"]
    run: RunDir
    config: ExperimentConfig
    variant: str
    seed: int
    stage_seed: int
    after: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.variant} s{self.seed}"

    @property
    def steps(self) -> int:
        """Optimiser steps that this run itself trains: a stage run its one stage, a variant all that are not shared."""
        return self.config.stages[-1].steps if self.kind == "stage" else sum(s.steps for s in self.config.stages if not s.shared)

    @property
    def state(self) -> State:
        """Read from the run's files at every call. `running`: a live process holds the run's lock."""
        if lock_holder(self.run.path) is not None:
            return "running"
        if not self.run.record_path.exists():
            return "missing"
        record = self.run.record()
        if record.status in ("done", "failed"):
            return "done" if record.status == "done" else "failed"
        return "partial" if record.attempts else "missing"


@dataclass(frozen=True)
class Plan:
    """Jobs in the order to start them: shared stages, then seed by seed, so that an early stop leaves whole seeds."""

    runs: Path
    jobs: tuple[Job, ...]

    def create(self) -> None:
        """Makes or reopens every run directory, so that one that can't be used is known before anything starts.

        Raises:
            UserError: a directory belongs to something else or cannot be written.
        """
        for job in self.jobs:
            config = job.config
            RunDir.create(self.runs, config.to_dict(), config.result_hash(), config.scale, job.variant, job.seed)


def make_plan(
    scale: str,
    tables: Sequence[str],
    seeds: Sequence[int] | None,
    runs: Path,
    overrides: dict[str, Any] | None = None,
    reseed_first_stage: bool = False,
    variant: str | None = None,
) -> Plan:
    """The jobs behind one or more tables. Nothing is written; a run that several tables share appears once.

    Args:
        scale: name of a scale.
        tables: grid names, or `["all"]`.
        seeds: one run of each variant for each; None: the seeds each table names.
        runs: folder of all runs.
        overrides: dotted path -> value, applied to the scale before every variant.
        reseed_first_stage: shared stages vary with the seed; otherwise all seeds start from the stage of seed 0.
        variant: only this row of the tables.

    Raises:
        UserError: unknown scale, table, variant or override; a world that cannot be run here; or an existing run that
            started from other stages than the ones asked for.
    """
    base = apply_overrides(get_scale(scale), overrides or {})
    if base.data.world != "scenes":
        raise UserError(f"scale {scale!r}: data.world={base.data.world!r} has no loader in this version; use scale tiny")
    stages: dict[Path, Job] = {}
    variants: dict[Path, Job] = {}
    for seed, row in _rows(tables, seeds, variant):
        stage_seed = seed if reseed_first_stage else 0
        config = row.config(base)
        paths: dict[str, Path] = {}
        for shared in shared_runs(config):
            after = tuple(paths[name] for name in shared.after)
            stage = _job("stage", runs, shared.config, shared.name, stage_seed, stage_seed, after)
            paths[shared.name] = stage.run.path
            stages.setdefault(stage.run.path, stage)
        job = _job("variant", runs, config, row.key, seed, stage_seed, tuple(paths.values()))
        _check_start(job)
        variants.setdefault(job.run.path, job)
    return Plan(Path(runs), (*stages.values(), *variants.values()))


def _rows(tables: Sequence[str], seeds: Sequence[int] | None, variant: str | None) -> list[tuple[int, Variant]]:
    """(seed, row) of every table, all rows of a seed before the next seed."""
    grids = [get_grid(name) for name in (GRIDS if "all" in tables else tables)]
    rows = [
        (seed, row)
        for grid in grids
        for seed in (grid.seeds if seeds is None else seeds)
        for row in (grid.rows if variant is None else (grid.variant(variant),))
    ]
    return sorted(rows, key=lambda item: item[0])


def _job(
    kind: Literal["stage", "variant"], runs: Path, config: ExperimentConfig, variant: str, seed: int, stage_seed: int,
    after: tuple[Path, ...],
) -> Job:  # fmt: skip
    run = RunDir.locate(runs, config.result_hash(), config.scale, variant, seed)
    return Job(kind, run, config, variant, seed, stage_seed, after)


def _check_start(job: Job) -> None:
    """A run's name does not hold its stages' seed, so a run begun from other stages must not pass for this one."""
    if not job.run.record_path.exists():
        return
    started = job.run.record().started_from
    wanted = [f"{path.parent.name}/{path.name}" for path in job.after]
    if started and started != wanted:
        raise UserError(
            f"{job.run.path}: started from {', '.join(started)}, not {', '.join(wanted)}; "
            "change --reseed-first-stage or choose another --runs folder"
        )
