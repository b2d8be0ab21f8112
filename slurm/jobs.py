"""What Submitit pickles and runs in a process of its own: small, because a queued job must outlive the code around it."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rf_repro.config.shared import SharedRun
from rf_repro.core.run_lock import run_lock
from slurm.plan import Job


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
class RunJob:
    """Completes one job of a plan. Everything done before is kept: an interrupted run goes on from its last checkpoint.

    Attributes:
        device: auto, cpu, cuda or mps.
        threads: CPU threads that it may use.
        devices: the launcher's CUDA_VISIBLE_DEVICES.
    """

    job: Job
    runs: Path
    device: str
    threads: int
    devices: str | None = field(default_factory=visible_devices)

    def __call__(self) -> None:
        stop_on_sigterm()
        set_visible_devices(self.devices)
        job = self.job
        with run_lock(job.run.path):
            from rf_repro import pipeline  # torch; after the environment is right

            if job.kind == "stage":
                shared = SharedRun(job.variant, job.config, tuple(path.parent.name for path in job.after))
                pipeline.run_shared(shared, seed=job.seed, runs=self.runs, device=self.device, threads=self.threads)
            else:
                pipeline.run_variant(
                    job.config, variant=job.variant, seed=job.seed, runs=self.runs, device=self.device, threads=self.threads,
                    stage_seed=job.stage_seed,
                )  # fmt: skip
