"""What Submitit pickles and SLURM runs: small, because a queued job must outlive the code around it."""

import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from rf_repro.core.errors import Stopped, TrainingDiverged, UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.core.shown import say
from rf_repro.launch.jobs import RunJob, StopSignals
from rf_repro.launch.plan import TRAIN
from slurm import requeue
from slurm.snapshot import assert_running_from

LOCK_SECONDS = 150.0  # a file server may keep the lock of a node that died for a while


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
        job, actions = self.run_job.job, self.run_job.describe()
        say(
            f"{job.name}: {actions} on rank {environment.global_rank} of {environment.num_tasks}, in {job.run.path}",
            file=sys.stdout,
        )
        if environment.global_rank == 0:
            self._first_rank(signals, environment.num_tasks)
        else:
            with suppress(Stopped):  # and no other exit status than 0, which would end the first rank too
                self.run_job.work(signals)
            signals.ignore()

    def _first_rank(self, signals: StopSignals, num_ranks: int) -> None:
        """The rank that keeps the lock, and the file about starting again."""
        run = self.run_job.job.run
        before = _last_step(run)
        with run_lock(self.run_job.place, LOCK_SECONDS):
            try:
                self._check_turn()
                self.run_job.work(signals)
            except Stopped as reason:
                say(f"stopped: {reason}", file=sys.stdout)
                fate = requeue.stopped(self.again, self.max_crashes, TRAIN not in self.run_job.todo or _last_step(run) > before)
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
                signals.ignore()
                return
        if signal.SIGUSR2 in signals.received and callable(signals.resubmit):
            signals.resubmit(signal.SIGUSR2, None)  # raises SystemExit when SLURM has taken the job back
        raise SystemExit(128 + signal.SIGTERM)

    def _check_turn(self) -> None:
        """Dependencies of SLURM decide when a job starts; whether it may is decided by the files."""
        for path in self.run_job.job.after:
            if not RunDir(path).is_trained():
                raise UserError(f"{self.run_job.job.name}: needs {path}, which is not trained to its end")


def _last_step(run: RunDir) -> int:
    return max((int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*")), default=0)


@dataclass(frozen=True)
class ReportJob:
    """Builds the report of a grid, trained with `changes` to its scale, from whatever its runs have left.

    Attributes:
        tables: as of `slurm.submission.Request`.
    """

    runs: Path
    out: Path
    scale: str
    changes: dict[str, Any]
    tables: list[str]
    snapshot: Path

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> str:
        assert_running_from(self.snapshot)
        from reports.build import build_report

        return str(build_report([self.runs], self.out, self.scale, self.changes, self.tables))
