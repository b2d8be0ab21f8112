"""What Submitit pickles and runs in processes of its own: small, because a queued job must outlive the code around it."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import submitit

from rf_repro.config.shared import SharedRun
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError
from rf_repro.core.records import ACTIONS, Action
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from slurm import requeue
from slurm.plan import Job
from slurm.snapshot import assert_running_from

if TYPE_CHECKING:
    from rf_repro.train.ranks import Ranks

LOCK_SECONDS = 150.0  # a file server may keep the lock of a node that died for a while


@dataclass(frozen=True)
class RunJob:
    """Completes one job of a plan, or some actions of it. Everything done before is kept: an interrupted run goes on from its
    last checkpoint.

    Attributes:
        device: auto, cpu, cuda or mps.
        threads: CPU threads that a process may use.
    """

    job: Job
    runs: Path
    device: str
    threads: int
    actions: tuple[Action, ...] = ACTIONS

    def work(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Imports torch, joins the other ranks where the environment names some, and works.

        Raises:
            Stopped: `stop` said so on one of the ranks.
        """
        from rf_repro.train.ranks import joined_ranks  # torch; after the environment is right

        with joined_ranks(self.device) as ranks:
            self.work_with(ranks, stop)

    def work_with(self, ranks: "Ranks", stop: Callable[[], bool]) -> None:
        """The same, with ranks that have joined."""
        from rf_repro.train.devices import on_device

        is_small = self.job.config.parallel.sharding == "none"  # a model that is sharded is none for a CPU
        on_device(self.device, lambda device: self._work_on(device.type, ranks, stop), is_small and ranks.size == 1)

    def _work_on(self, device: str, ranks: "Ranks", stop: Callable[[], bool]) -> None:
        from rf_repro.pipeline import run_shared, run_variant

        job = self.job
        if job.kind != "variant":
            after = tuple(path.parent.name for path in job.after)
            shared = SharedRun(job.variant, job.config, after, is_own=job.kind == "own stage")
            run_shared(
                shared, seed=job.seed, runs=self.runs, device=device, threads=self.threads, stage_seed=job.stage_seed,
                ranks=ranks, stop=stop,
            )  # fmt: skip
        else:
            run_variant(
                job.config, variant=job.variant, seed=job.seed, runs=self.runs, device=device, threads=self.threads,
                stage_seed=job.stage_seed, actions=self.actions, ranks=ranks, stop=stop,
                init_from=None if job.init_from is None else RunDir(job.init_from),
            )  # fmt: skip


# On this machine


def stop_on_sigterm() -> None:
    """Makes SIGTERM end this process as Ctrl-C would, unwinding what is open; Submitit's own handler ignores it."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher repeats itself; a second one must not cut the unwinding short
    raise KeyboardInterrupt


def visible_devices() -> str | None:
    """CUDA_VISIBLE_DEVICES here; None when it is not set, which means all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def set_visible_devices(devices: str | None) -> None:
    """Undoes Submitit's local executor, which hides every GPU from its jobs. Before torch is imported."""
    if devices is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices


@dataclass(frozen=True)
class LocalJob:
    """A run job for `slurm.local`; `devices`: the launcher's CUDA_VISIBLE_DEVICES."""

    run_job: RunJob
    devices: str | None = field(default_factory=visible_devices)

    def __call__(self) -> None:
        stop_on_sigterm()
        set_visible_devices(self.devices)
        submitit.JobEnvironment().paths.submitted_pickle.unlink(missing_ok=True)  # it is loaded; if killed, we leave none
        with run_lock(self.run_job.job.run.path):
            self.run_job.work()


# In several ranks, and on a cluster


class StopSignals:
    """Turns the signals that announce an end into a flag that the work looks at between two steps.

    SIGUSR2 is SLURM's warning of the time limit and of preemption (`--signal`); Submitit's handler for it, kept in `resubmit`,
    writes the job anew and calls `scontrol requeue`. SIGTERM announces an end that somebody else has decided on.
    """

    def __init__(self) -> None:
        self.received: set[int] = set()
        self.resubmit = signal.getsignal(signal.SIGUSR2)
        for kind in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(kind, self._remember)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.received.add(signum)

    def __call__(self) -> bool:
        return bool(self.received)


def run_as_rank(jobs: Sequence[RunJob]) -> None:
    """Completes jobs in order as one of the ranks that torchrun started: the work is what it is under srun.

    Raises:
        Stopped: torchrun ends its ranks; everything is saved.
    """
    from rf_repro.train.ranks import ALONE, joined_ranks

    signals = StopSignals()
    with joined_ranks(jobs[0].device) as ranks:
        for one in jobs:
            with run_lock(one.job.run.path) if ranks.is_first else nullcontext():
                if ranks.is_first:
                    one.job.create(one.runs)
                ranks.barrier()
                if not one.job.single:
                    one.work_with(ranks, signals)
                elif ranks.is_first:
                    one.work_with(ALONE, signals)
                ranks.barrier()  # what the first rank does alone the others wait for


@dataclass(frozen=True)
class SlurmJob:
    """A run job under SLURM: in every rank, from a snapshot of the code, stopping at signals and starting again.

    Attributes:
        again: the file of `slurm.requeue`.
        max_crashes: starts that may get nowhere before it is left to the user.
    """

    run_job: RunJob
    snapshot: Path
    again: Path
    max_crashes: int

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What Submitit is to run after a requeue: the same. The step to go on from is on disk."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        signals = StopSignals()
        assert_running_from(self.snapshot)
        environment = submitit.JobEnvironment()
        # Its MASTER_PORT is drawn from the job id and may be taken: ranks meet at RF_RENDEZVOUS, which the batch script names.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        job, actions = self.run_job.job, ", ".join(self.run_job.actions)
        print(
            f"{job.name}: {actions} on rank {environment.global_rank} of {environment.num_tasks}, in {job.run.path}", flush=True
        )
        if environment.global_rank == 0:
            self._first_rank(signals, environment.num_tasks)
        else:
            with suppress(Stopped):  # and no other exit status than 0, which would end the first rank too
                self.run_job.work(signals)

    def _first_rank(self, signals: StopSignals, num_ranks: int) -> None:
        """The rank that keeps the lock, and the file about starting again."""
        run = self.run_job.job.run
        before = _last_step(run)
        with run_lock(run.path, LOCK_SECONDS):
            try:
                self._check_turn()
                self.run_job.work(signals)
            except Stopped as reason:
                print(f"stopped: {reason}", flush=True)
                fate = requeue.stopped(
                    self.again, self.max_crashes, "train" not in self.run_job.actions or _last_step(run) > before
                )
                if not fate.again:
                    raise UserError(
                        f"{run.path}: {fate.crashes} starts got nowhere; raise `time` or `signal_seconds`"
                    ) from reason
            except Exception as error:
                lost_rank = num_ranks > 1 and isinstance(error, RuntimeError) and not isinstance(error, TrainingDiverged)
                if not lost_rank:  # which can go better next time
                    requeue.end(self.again)
                raise
            else:
                requeue.end(self.again)
                return
        if signal.SIGUSR2 in signals.received and callable(signals.resubmit):
            signals.resubmit(signal.SIGUSR2, None)  # raises SystemExit when SLURM has taken the job back
        raise SystemExit(128 + signal.SIGTERM)

    def _check_turn(self) -> None:
        """Dependencies of SLURM decide when a job starts; whether it may is decided by the files."""
        for path in self.run_job.job.after:
            before = RunDir(path)
            if not before.record_path.exists() or before.record().status != "done":
                raise UserError(f"{self.run_job.job.name}: needs {path}, which is not done")


def _last_step(run: RunDir) -> int:
    return max((int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*")), default=0)


@dataclass(frozen=True)
class ReportJob:
    """Builds the report of a grid, trained with `changes` to its scale, from whatever its runs have left."""

    runs: Path
    out: Path
    scale: str
    changes: dict[str, Any]
    snapshot: Path

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> str:
        assert_running_from(self.snapshot)
        from reports.build import build_report

        return str(build_report([self.runs], self.out, self.scale, self.changes))
