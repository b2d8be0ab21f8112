"""What a process of a run does: what Submitit pickles for `rf_repro.launch.local`, and what torchrun starts."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

import submitit

from rf_repro.core.action_dir import ActionDir, Share
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.evaluations.actions import Evaluation, Scoring
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
        actions: names of those to do, in order; None: all.
        share: (index, count) of the share to do of each evaluation among them.
    """

    job: Job
    runs: Path
    device: str
    threads: int
    actions: tuple[str, ...] | None = None
    share: Share = (0, 1)

    @property
    def todo(self) -> tuple[str, ...]:
        """The actions to do."""
        return self.job.actions if self.actions is None else self.actions

    @property
    def place(self) -> Path:
        """The folder whose lock says that somebody works: the run's, or that of a share of an evaluation: several of those may go
        on side by side."""
        if any(self.job.evaluation(action) is None for action in self.todo):
            return self.job.run.path
        return ActionDir.of(self.job.run, self.todo[0]).share(self.share).path

    def describe(self) -> str:
        """`train, sample`, or `mmmu, share 2 of 8`."""
        index, count = self.share
        return ", ".join(self.todo) + (f", share {index + 1} of {count}" if count > 1 else "")

    def work(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Imports torch, joins the other ranks where the environment names some, and works.

        Raises:
            Stopped: `stop` said so on one of the ranks.
        """
        from rf_repro.compute.ranks import joined_ranks  # torch; after the environment is right

        with joined_ranks(self.device) as ranks:
            self.work_with(ranks, stop)

    def work_with(self, ranks: "Ranks", stop: Callable[[], bool]) -> None:
        """The same, with ranks that have joined: they train together, and share out each evaluation."""
        from rf_repro.compute.devices import on_device

        own = [action for action in self.todo if self.job.evaluation(action) is None]
        is_small = self.job.config.parallel.sharding == "none"  # a model that is sharded is none for a CPU
        if own:
            on_device(self.device, lambda device: self._make(own, device.type, ranks, stop), is_small and ranks.size == 1)
        for action in self.todo:
            if (evaluation := self.job.evaluation(action)) is not None:
                self._evaluate(evaluation, self.share if ranks.size == 1 else (ranks.rank, ranks.size), stop)
                ranks.barrier()

    def _make(self, actions: Sequence[str], device: str, ranks: "Ranks", stop: Callable[[], bool]) -> None:
        """What the run's world makes of it."""
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
                stage_seed=job.stage_seed, actions=actions, ranks=ranks, stop=stop,
                init_from=None if job.init_from is None else RunDir(job.init_from),
            )  # fmt: skip

    def _evaluate(self, evaluation: Evaluation, share: Share, stop: Callable[[], bool]) -> None:
        from rf_repro.compute.devices import release
        from rf_repro.evaluations.perform import Work, perform

        judged_by = [one for one in self.job.evaluations if isinstance(one, Scoring) and one.images == evaluation]
        release()  # what an action before it has left on the device
        perform(Work(self.job.run, self.job.config, evaluation, share, self.device, self.threads, judged_by, stop))


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
    """A run job for `rf_repro.launch.local`.

    Attributes:
        devices: the launcher's CUDA_VISIBLE_DEVICES.
        ranks: processes that do it together.
    """

    run_job: RunJob
    devices: str | None = field(default_factory=visible_devices)
    ranks: int = 1

    def __call__(self) -> None:
        stop_on_sigterm()
        set_visible_devices(self.devices)
        submitit.JobEnvironment().paths.submitted_pickle.unlink(missing_ok=True)  # it is loaded; if killed, we leave none
        with run_lock(self.run_job.place), _other_ranks(self.run_job, self.ranks):
            self.run_job.work()


@contextmanager
def _other_ranks(run_job: RunJob, size: int) -> Iterator[None]:
    """Makes this process the first of so many ranks for the block. The others are its children: they end with the block, and
    where this process is killed, with the next thing that they want to tell it."""
    if size == 1:
        yield
        return
    with TemporaryDirectory(prefix="rf-ranks-") as folder:
        os.environ |= {"WORLD_SIZE": str(size), "RANK": "0", "RF_RENDEZVOUS": str(Path(folder) / "rendezvous")}
        children = [
            multiprocessing.get_context("spawn").Process(target=_work_as, args=(rank, run_job), daemon=True)
            for rank in range(1, size)
        ]
        for child in children:
            child.start()
        try:
            yield
        finally:
            for child in children:
                child.terminate()
                child.join()


def _work_as(rank: int, run_job: RunJob) -> None:
    os.environ["RANK"] = str(rank)
    run_job.work()


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
