"""A job small enough to test the launcher with, and real in all that the launcher relies on: it locks, records, resumes.

`python -m tests.launch.workers RUNS JOBS [HOLD [deaf]]` launches the plan of `smoke_plan` in a process of its own.
"""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread

import pytest

from rf_repro.config.scales import SCALES, smoke
from rf_repro.core.files import append_jsonl, write_json
from rf_repro.core.provenance import utc_now
from rf_repro.core.records import Attempt
from rf_repro.core.run_lock import run_lock
from rf_repro.launch.jobs import LocalJob, set_visible_devices, stop_on_sigterm, visible_devices
from rf_repro.launch.plan import Job, Plan, make_plan

STEPS = 5


@dataclass(frozen=True)
class Count:
    """Counts to five, a row of metrics a step, going on from the last row. Fails in the runs that `fail` names."""

    job: Job
    threads: int
    seconds: float = 0.02  # a step
    hold: str = ""  # a file: variants that have done a step wait until it is there
    fail: tuple[str, ...] = ()
    die: tuple[str, ...] = ()
    deaf: bool = False  # to SIGTERM, as a process that hangs is
    devices: str | None = field(default_factory=visible_devices)

    def __call__(self) -> None:
        stop_on_sigterm()
        if self.deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        set_visible_devices(self.devices)
        run = self.job.run
        with run_lock(run.path):
            record = run.record()
            before = run.metrics()
            attempt = Attempt(utc_now(), "here", os.getpid(), "cpu", self.threads, from_step=len(before))
            record = replace(record, status="running", attempts=[*record.attempts, attempt])
            run.write_record(record)
            if self.job.name in self.fail:
                run.write_record(replace(record, status="failed"))
                raise ValueError(f"{self.job.name} cannot count")
            if self.job.name in self.die:
                os.kill(os.getpid(), signal.SIGKILL)
            for step in range(len(before) + 1, STEPS + 1):
                time.sleep(self.seconds)
                append_jsonl(run.metrics_path, {"step": step, "loss": 1 / step, "time": time.time()})
                while self.hold and self.job.kind == "variant" and not Path(self.hold).exists() and run.path.exists():
                    time.sleep(0.02)
            names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")
            write_json(run.path / "environment.json", [os.environ.get(name) for name in names])
            run.write_record(replace(record, status="done", started_from=started_from(self.job)))


@dataclass(frozen=True)
class Orphan(LocalJob):
    """Its second rank is killed when it has trained a few steps."""

    def __call__(self) -> None:
        Thread(target=self._kill, daemon=True).start()
        super().__call__()

    def _kill(self) -> None:
        while not self.run_job.job.run.metrics_path.exists() or not multiprocessing.active_children():
            time.sleep(0.02)
        [child] = multiprocessing.active_children()
        child.kill()


def started_from(job: Job) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in job.after]


def smoke_plan(runs: Path) -> Plan:
    """One stage and four variants: the pixel rows of Table 3a, two seeds."""
    jobs = make_plan("smoke", ["table3a"], [0, 1], runs, share_first_stage=True).jobs
    return Plan(runs, tuple(job for job in jobs if job.variant in ("stage-pretrain", "pixel", "pixel_rf")))


def longer_smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale `smoke` with a stage after `joint`, as `base` and `paper` have one."""
    base = smoke()
    further = replace(base.stage("joint"), name="continued", steps=10)
    monkeypatch.setitem(SCALES, "smoke", lambda: replace(base, stages=(*base.stages, further)))


def main(runs: str, jobs: str, hold: str = "", deaf: str = "") -> int:
    from rf_repro.launch.display import PlainDisplay
    from rf_repro.launch.local import Interrupted, run_plan

    try:
        display = PlainDisplay(sys.stderr)
        failures = run_plan(
            smoke_plan(Path(runs)),
            lambda job, threads, slot, ranks: Count(job, threads, hold=hold, deaf=bool(deaf)),
            display,
            int(jobs),
        )
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    return len(failures)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
