"""What a process of a run does: what Submitit pickles for `rf_repro.launch.local`, and what torchrun starts."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import submitit

from rf_repro.core.records import ACTIONS, Action
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.launch.plan import Job

if TYPE_CHECKING:
    from rf_repro.compute.ranks import Ranks


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
        from rf_repro.compute.ranks import joined_ranks  # torch; after the environment is right

        with joined_ranks(self.device) as ranks:
            self.work_with(ranks, stop)

    def work_with(self, ranks: "Ranks", stop: Callable[[], bool]) -> None:
        """The same, with ranks that have joined."""
        from rf_repro.compute.devices import on_device

        is_small = self.job.config.parallel.sharding == "none"  # a model that is sharded is none for a CPU
        on_device(self.device, lambda device: self._work_on(device.type, ranks, stop), is_small and ranks.size == 1)

    def _work_on(self, device: str, ranks: "Ranks", stop: Callable[[], bool]) -> None:
        from rf_repro.experiment.run import run_prerequisite, run_variant

        job = self.job
        if job.prerequisite is not None:
            run_prerequisite(
                job.prerequisite, seed=job.seed, runs=self.runs, device=device, threads=self.threads, stage_seed=job.stage_seed,
                ranks=ranks, stop=stop,
            )  # fmt: skip
        else:
            run_variant(
                job.config, variant=job.key, seed=job.seed, runs=self.runs, device=device, threads=self.threads,
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
    """A run job for `rf_repro.launch.local`; `devices`: the launcher's CUDA_VISIBLE_DEVICES."""

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

    def ignore(self) -> None:
        """The work is done: a warning that comes while Python ends would find no handler, and make a job fail that has not."""
        for kind in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)


def run_as_rank(jobs: Sequence[RunJob]) -> None:
    """Completes jobs in order as one of the ranks that torchrun started: the work is what it is under srun.

    Raises:
        Stopped: torchrun ends its ranks; everything is saved.
    """
    from rf_repro.compute.ranks import ALONE, joined_ranks

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
