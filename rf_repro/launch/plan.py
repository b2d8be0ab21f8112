"""What a grid still needs, derived from files alone: planning twice, or after any crash, gives the same answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ablations.grid import AblationGrid, Variant
from ablations.registry import get_grids
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import Prerequisite, PrerequisiteKind, prerequisites, run_name
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.action_dir import ActionDir
from rf_repro.core.errors import UserError
from rf_repro.core.records import Action
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import lock_holder
from rf_repro.core.systems import locate_system, system_run
from rf_repro.evaluations.actions import Evaluation
from rf_repro.evaluations.plan import EMPTY, EvaluationPlan
from rf_repro.worlds import world_of

State = Literal["done", "resumable", "missing", "failed", "running"]
Kind = Literal["train", "sample", "evaluate", "answer"]  # of an action: what it asks of a machine
TRAIN: Action = "train"


@dataclass(frozen=True)
class Job:
    """One run to complete: a variant, or a prerequisite of variants.

    Attributes:
        run: the run's directory, which may not exist yet.
        variant: the run's name: of a variant as `run_name` has it, of a prerequisite its own, e.g. `stage-pretrain`.
        stage_seed: seed of the shared stages that a variant starts from.
        after: run directories that must be trained first.
        init_from: the one of them whose averaged weights the variant's last stage starts from, instead of its stages.
        prerequisite: what the run is, where it is no variant asked for.
        key: of the variant's row.
        evaluations: what it is sampled and scored by once it is trained, each after what it needs.
        is_system: it stands for another group's system, whose images are there; `config` is that of the row beside it.
    """

    run: RunDir
    config: ExperimentConfig
    variant: str
    seed: int
    stage_seed: int
    after: tuple[Path, ...] = ()
    init_from: Path | None = None
    prerequisite: Prerequisite | None = None
    key: str = ""
    evaluations: tuple[Evaluation, ...] = ()
    is_system: bool = False

    @property
    def kind(self) -> PrerequisiteKind | Literal["variant", "system"]:
        """What kind of run it is."""
        if self.is_system:
            return "system"
        return "variant" if self.prerequisite is None else self.prerequisite.kind

    @property
    def name(self) -> str:
        return f"{self.variant} s{self.seed}"

    @property
    def slug(self) -> str:
        """The name as a word of a command line: `pixel_rf-s0`."""
        return f"{self.variant}-s{self.seed}"

    @property
    def own_actions(self) -> tuple[Action, ...]:
        """What its world makes of the run, in order. A stage scores itself; without generation there is nothing to sample."""
        if self.is_system:
            return ()
        return self.config.actions if self.prerequisite is None else (TRAIN,)

    @property
    def actions(self) -> tuple[str, ...]:
        """What it takes to complete the run, each after what it needs."""
        return (*self.own_actions, *(one.name for one in self.evaluations))

    def evaluation(self, action: str) -> Evaluation | None:
        """The evaluation of that name; None: the action is one of the run's own."""
        return next((one for one in self.evaluations if one.name == action), None)

    def kind_of(self, action: str) -> Kind:
        """What kind of work an action is."""
        one = self.evaluation(action)
        return one.kind if one is not None else action  # type: ignore[return-value]

    def before(self, action: str) -> tuple[str, ...]:
        """The actions of this run that must be done before one of them."""
        one = self.evaluation(action)
        if one is not None:
            return one.after
        own = self.own_actions
        return own[: own.index(action)][-1:]

    @property
    def single(self) -> bool:
        """Whether its training takes one process only: small components that several ranks would not speed up."""
        return self.prerequisite is not None and not self.prerequisite.is_stage

    @property
    def steps(self) -> int:
        """Optimiser steps that this run itself trains: those of its last stage."""
        return self.config.stages[-1].steps

    def create(self, runs: Path) -> None:
        """Makes or reopens the run directory. Raises UserError when it belongs to something else or cannot be written."""
        config = self.config
        if self.is_system:
            system_run(runs, config.scale, self.variant)
            return
        RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, self.variant, self.seed)

    @property
    def state(self) -> State:
        """Read from the run's files at every call. `running`: a live process holds the run's lock; `failed`: among others, files
        cannot be read (`damage` says which). Of an own stage the training counts alone."""
        try:
            return self._state
        except UserError:
            return "failed"

    @property
    def damage(self) -> str:
        """What cannot be read of the run, in a line; empty where all can."""
        try:
            _ = self._state
        except UserError as error:
            return str(error)
        return ""

    @property
    def _state(self) -> State:
        if self.kind == "own stage" and self.run.has_done("train", self.steps):
            return "done"
        if lock_holder(self.run.path) is not None:
            return "running"
        if not self.run.record_path.exists():
            return "missing"
        record = self.run.record()
        if record.status != "done" and not self.is_system:
            return "failed" if record.status == "failed" else "resumable" if record.attempts else "missing"
        if not all(self.run.has_done(action, self.steps) for action in self.own_actions):
            return "resumable"  # something was lost since
        return self._evaluated

    @property
    def open_evaluations(self) -> list[Evaluation]:
        """Those that are not done."""
        return [one for one in self.evaluations if not ActionDir.of(self.run, one.name).has_done(one.digest)]

    @property
    def _evaluated(self) -> State:
        """How far the evaluations of a trained run are."""
        open_ones = self.open_evaluations
        shares = [share for one in open_ones for share in ActionDir.of(self.run, one.name).begun()]
        if any(share.holder() is not None for share in shares):
            return "running"
        if any(record.failed for share in shares if (record := share.record()) is not None):
            return "failed"
        return "resumable" if open_ones else "done"


@dataclass(frozen=True)
class Plan:
    """Jobs in the order to start them: shared stages, then seed by seed, so that an early stop leaves whole seeds; each after
    all that it starts from."""

    runs: Path
    jobs: tuple[Job, ...]

    def create(self) -> None:
        """Makes or reopens every run directory, so that one that can't be used is known before anything starts.

        Raises:
            UserError: a directory belongs to something else or cannot be written.
        """
        for job in self.jobs:
            job.create(self.runs)


def make_plan(
    scale: str,
    tables: Sequence[str],
    seeds: Sequence[int] | None,
    runs: Path,
    overrides: dict[str, Any] | None = None,
    share_first_stage: bool = False,
    only: Sequence[str] = (),
    init_from: Path | None = None,
    evaluations: EvaluationPlan = EMPTY,
) -> Plan:
    """The jobs behind one or more tables. Nothing is written; a run that several tables share appears once, and a row that
    another one goes on from as that row.

    Args:
        scale: name of a scale.
        tables: names as `ablations.registry.get_grids` takes them: `table3a`, `all`, `my_grid.py:GRID`.
        seeds: one run of each variant for each; None: the seeds each table names.
        runs: folder of all runs.
        overrides: dotted path -> value, applied to the scale before every variant.
        share_first_stage: all seeds start from the shared stages of seed 0; otherwise each has its own.
        only: keys of the only rows wanted; none: all.
        init_from: a run whose averaged weights variants start from, instead of the stages before their last.
        evaluations: what trained runs are sampled and scored by, where their world does not do so itself.

    Raises:
        UserError: unknown scale, table, variant or override; a world that cannot be run here; or an existing run that
            started from other stages than the ones asked for.
    """
    base = apply_overrides(get_scale(scale), overrides or {})
    world_of(base).check_run(base)
    if init_from is not None:
        RunDir.open(init_from, "--init-from")
    stages: dict[Path, Job] = {}
    variants: dict[Path, Job] = {}
    configs: dict[str, tuple[ExperimentConfig, str, list[tuple[Prerequisite, str]]]] = {}  # with hashes, which take their time
    grids = get_grids(tables, base)
    for seed, grid, row in _rows(grids, seeds, only):
        stage_seed = 0 if share_first_stage else seed
        key = row.run_key(base)
        name = run_name(key, grid.schedule(base))
        if name not in configs:
            config = grid.config(row, base)
            needed = [one for one in prerequisites(config, key) if init_from is None or one.kind == "vae"]
            configs[name] = config, config.result_hash(), [(one, one.config.result_hash()) for one in needed]
        config, digest, shared = configs[name]
        paths: dict[str, Path] = {}
        for one, its_digest in shared:
            after = tuple(paths[earlier] for earlier in one.after)
            its_seed = seed if one.is_own else stage_seed
            stage = _job(runs, one.config, its_digest, one.name, its_seed, stage_seed, after)
            paths[one.name] = stage.run.path
            stages.setdefault(stage.run.path, replace(stage, prerequisite=one, key=one.key))
        after = tuple(paths.values()) if init_from is None else (*paths.values(), init_from)
        job = replace(_job(runs, config, digest, name, seed, stage_seed, after), init_from=init_from, key=key)
        known = variants[job.run.path].evaluations if job.run.path in variants else ()  # by another table that has this row
        more = [one for one in evaluations.evaluations(grid.name, config) if one not in known]
        variants[job.run.path] = replace(job, evaluations=(*known, *more))
    systems = _systems(grids, base, runs, evaluations)
    jobs = {path: job for path, job in stages.items() if path not in variants} | variants | systems
    for job in jobs.values():
        if job.kind in ("variant", "own stage"):
            _check_start(job)
    return Plan(Path(runs), tuple(_in_order(jobs)))


def _systems(grids: Sequence[AblationGrid], base: ExperimentConfig, runs: Path, evaluations: EvaluationPlan) -> dict[Path, Job]:
    """Systems beside the rows of a table, of which the evaluation plan names images."""
    found: dict[Path, Job] = {}
    for grid in grids:
        config = grid.config(grid.variant(grid.base), base)
        for key in evaluations.systems:
            if scorings := evaluations.of_system(key, grid.name, config):
                run = locate_system(runs, config.scale, key)
                known = found[run.path].evaluations if run.path in found else ()
                more = [one for one in scorings if one not in known]
                found[run.path] = Job(run, config, key, 0, 0, evaluations=(*known, *more), is_system=True)
    return found


def _in_order(jobs: Mapping[Path, Job]) -> list[Job]:
    """The jobs as they stand, but for those that another one needs: they come right before the first that does."""
    found: dict[Path, Job] = {}

    def add(job: Job) -> None:
        for path in job.after:
            if path in jobs and path not in found:
                add(jobs[path])
        found.setdefault(job.run.path, job)

    for job in jobs.values():
        add(job)
    return list(found.values())


def _rows(
    grids: Sequence[AblationGrid], seeds: Sequence[int] | None, only: Sequence[str]
) -> list[tuple[int, AblationGrid, Variant]]:
    """(seed, table, row) of every table, all rows of a seed before the next seed."""
    keys = dict.fromkeys(row.key for grid in grids for row in grid.rows)
    for key in only:
        if key not in keys:
            where = grids[0].name if len(grids) == 1 else f"{len(grids)} tables"
            raise UserError(f"variant {key!r}: not in {where}; choose of {', '.join(keys)}")
    rows = [
        (seed, grid, row)
        for grid in grids
        for seed in (grid.seeds if seeds is None else seeds)
        for row in grid.rows
        if not only or row.key in only
    ]
    return sorted(rows, key=lambda item: item[0])


def _job(
    runs: Path, config: ExperimentConfig, digest: str, variant: str, seed: int, stage_seed: int, after: tuple[Path, ...]
) -> Job:
    return Job(RunDir.locate(runs, digest, config.scale, variant, seed), config, variant, seed, stage_seed, after)


def _check_start(job: Job) -> None:
    """A run's name does not hold its stages' seed, so a run begun from other stages must not pass for this one."""
    if not job.run.record_path.exists() or job.damage:
        return  # one that cannot be read is refused as it is opened, and hides no other one
    started = job.run.record().started_from
    wanted = [f"{path.parent.name}/{path.name}" for path in job.after]
    if started and started != wanted:
        raise UserError(
            f"{job.run.path}: started from {', '.join(started)}, not {', '.join(wanted)}; "
            "change --share-first-stage or choose another --runs folder"
        )
