"""Runs a plan on this machine through Submitit's local executor, a process for each run.

Nothing is remembered outside the runs' own files: a launcher killed at any time is replaced by starting it again. Jobs
outlive a launcher that was killed with SIGKILL; the next one finds their locks held and waits for them.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType

import submitit

from rf_repro.core.import_path import job_environment
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import lock_holder
from rf_repro.launch.display import Display
from rf_repro.launch.forecast import Speed, seconds_left, time_of_all
from rf_repro.launch.plan import Job, Plan
from rf_repro.launch.progress import Watch, clock
from rf_repro.launch.state import record_of

POLL_SECONDS = 0.25
STOP_SECONDS = 20.0  # time for a stopped job to unwind before it is killed
TIMEOUT_MINUTES = 60 * 24 * 365  # Submitit's default would stop a local job after minutes

MakeCall = Callable[[Job, int, int, int], Callable[[], object]]  # (job, threads, slot, ranks) -> what Submitit pickles and calls


class Interrupted(KeyboardInterrupt):
    """A signal asked the launcher to stop; its jobs have been stopped."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@dataclass(frozen=True)
class Failure:
    """A job that did not complete, why, and the log to look at (None: it was never started)."""

    job: Job
    reason: str
    log: Path | None


@dataclass
class _Active:
    """A run at work. `process` is None when it belongs to another launcher; else it has one of the slots from 0 to jobs - 1."""

    watch: Watch
    process: submitit.Job[object] | None
    slot: int | None = None
    ranks: int = 1  # each takes a place of the launcher's
    has_told: bool = False  # that its device failed

    @property
    def job(self) -> Job:
        return self.watch.job


class _Signals:
    """Remembers SIGINT, SIGTERM and SIGHUP instead of raising in the middle of a submission."""

    def __init__(self) -> None:
        self.received: list[int] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        kinds = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # by nohup: the work outlives the terminal
            kinds.append(signal.SIGHUP)
        before = {kind: signal.signal(kind, self._remember) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.received.append(signum)

    def check(self) -> None:
        if self.received:
            raise Interrupted(self.received[0])


def run_plan(
    plan: Plan,
    make_call: MakeCall,
    display: Display,
    jobs: int,
    threads: int = 1,
    speed: Callable[[Job], Speed] | None = None,
    may_share: bool = False,
) -> list[Failure]:
    """Completes every job of the plan, at most `jobs` at a time, and shows how far they are.

    Args:
        make_call: the picklable callable that does a job with so many threads, on the device of its slot (`LocalJob`
            outside tests).
        jobs: processes at a time.
        threads: threads of each. One is fastest at `tiny`: the matrices are small.
        speed: of each run on this machine, where that was measured: then the time left is known from the start.
        may_share: whether a stage that all others wait for may be trained by as many ranks as there are places.

    Returns:
        What failed. A failed job stops those that start from it and no others.

    Raises:
        UserError: a run directory cannot be used (before anything starts).
        Interrupted: SIGINT, SIGTERM or SIGHUP; the jobs that this launcher started have ended.
    """
    plan.create()
    launcher = _Launcher(plan, make_call, display, jobs, threads, speed, may_share)
    signals = _Signals()
    with signals.installed(), display:
        try:
            while launcher.waiting or launcher.active:
                signals.check()
                launcher.advance()
                time.sleep(POLL_SECONDS)
        finally:
            launcher.stop(signals)
    return launcher.failures


class _Launcher:
    def __init__(
        self,
        plan: Plan,
        make_call: MakeCall,
        display: Display,
        jobs: int,
        threads: int,
        speed: Callable[[Job], Speed] | None,
        may_share: bool,
    ):
        self.make_call, self.display, self.jobs, self.threads, self.speed = make_call, display, jobs, threads, speed
        self.may_share = may_share
        self.failures: list[Failure] = []
        self.active: list[_Active] = []
        self.waiting: list[Job] = []
        self.done: set[Path] = set()
        before = {path for job in plan.jobs for path in job.after}
        self.trained = {path for path in before if RunDir(path).is_trained()}  # as what a run starts from must be
        self.trained |= {job.init_from for job in plan.jobs if job.init_from is not None}  # which is taken as it is
        for job in plan.jobs:
            if job.state == "done":
                self.done.add(job.run.path)
            else:
                self.waiting.append(job)
        self.waiting = in_order_of_start(
            self.waiting, {job.run.path: seconds_left(job, self._speed(job)) for job in self.waiting}
        )
        self.total = len(self.waiting)
        if self.done:
            display.note(f"{len(self.done)} of {len(plan.jobs)} runs are done already")

    def advance(self) -> None:
        """Collects what ended, starts what can start, and shows the rest."""
        ended = [active for active in self.active if self._ended(active)]
        self.trained |= {active.job.run.path for active in self.active if active.job.run.is_trained()}
        for active in ended:
            self.active.remove(active)
            self._tell_of_failed_device(active)
            self._collect(active)
        failed = {failure.job.run.path for failure in self.failures}
        for job in list(self.waiting):
            missing = [path for path in job.after if path not in self.trained]
            if lost := [path for path in missing if path in failed]:
                self.waiting.remove(job)
                self._fail(job, f"not started: it needs {lost[0].parent.name}, which failed", None)
            elif not missing and (ranks := self._ranks(job)) <= self.jobs - sum(active.ranks for active in self.active):
                self.waiting.remove(job)
                self._start(job, ranks)
        for active in self.active:
            active.watch.update()
            self._tell_of_failed_device(active)
        finished = self.total - len(self.waiting) - len(self.active)
        self.display.update([active.watch for active in self.active], finished, self.total, self._remaining())

    def _ranks(self, job: Job) -> int:
        """As many as there are places, for a stage that all others wait for, but for small parts."""
        others = [*self.waiting, *(active.job for active in self.active)]
        alone = all(other is job or other.single or job.run.path in other.after for other in others)
        return self.jobs if self.may_share and job.kind == "stage" and alone else 1

    def _tell_of_failed_device(self, active: _Active) -> None:
        """One line where a run went on with the CPU: what it says itself is in its log."""
        record = None if active.has_told else record_of(active.job)
        attempts = record.attempts[-2:] if record is not None else []
        if len(attempts) == 2 and attempts[0].pid == attempts[1].pid and (attempts[0].error or "").startswith("DeviceFailed"):
            active.has_told = True
            self.display.note(
                f"{active.job.name}: {attempts[0].device} failed, goes on with the CPU (log: {active.job.run.path / 'logs'})"
            )

    def _remaining(self) -> float | None:
        """Seconds until all runs are done; None before there is anything to tell it from."""
        watches = [active.watch for active in self.active]
        left = {watch.job.run.path: watch.remaining for watch in watches}
        paces = [pace for watch in watches if (pace := watch.pace) is not None]
        if any(seconds is None for seconds in left.values()) or not (paces or self.speed):
            return None
        pace = fmean(paces) if paces else 1.0
        waiting = [(job, pace * seconds_left(job, self._speed(job))) for job in self.waiting]
        return time_of_all({path: seconds for path, seconds in left.items() if seconds is not None}, waiting, self.jobs)

    def _speed(self, job: Job) -> Speed:
        return self.speed(job) if self.speed else Speed()

    def _watch(self, job: Job) -> Watch:
        return Watch(job, self._speed(job), self.speed is not None)

    def _start(self, job: Job, ranks: int) -> None:
        pid = lock_holder(job.run.path)
        if pid is not None:
            self.display.note(f"{job.name}: process {pid} of another launcher works on it; waiting for it (kill {pid} stops it)")
            self.active.append(_Active(self._watch(job), None))
            return
        verb = "resumes" if job.state == "resumable" else "starts again after a failure" if job.state == "failed" else "starts"
        slot = next(index for index in itertools.count() if index not in {active.slot for active in self.active})
        process = _submit(self.make_call(job, self.threads, slot, ranks), job.run.path / "logs", self.threads)
        self.display.note(f"{job.name}: {verb} ({job.run.path})")
        self.active.append(_Active(self._watch(job), process, slot, ranks))

    def _ended(self, active: _Active) -> bool:
        if active.process is not None:
            return active.process.done()
        return lock_holder(active.job.run.path) is None

    def _collect(self, active: _Active) -> None:
        job, state = active.job, active.job.state
        if state == "done":
            self.done.add(job.run.path)
            self.display.note(f"{job.name}: done in {clock(active.watch.elapsed)}")
        elif state == "running" or (active.process is None and state != "failed"):
            self.waiting.insert(0, job)  # another launcher was quicker, or was stopped: wait for it, or take over
        elif active.process is None:
            self._fail(job, "failed under another launcher", job.run.path / "logs")
        else:
            log = Path(active.process.paths.stderr)
            self._fail(job, _last_line(log), log)
        if active.process is not None:  # a result in memory is all it holds, and logs/ is for people
            for path in (active.process.paths.submitted_pickle, active.process.paths.result_pickle):
                Path(path).unlink(missing_ok=True)

    def _fail(self, job: Job, reason: str, log: Path | None) -> None:
        self.failures.append(Failure(job, reason, log))
        self.display.note(f"{job.name}: failed: {reason}" + (f" (log: {log})" if log else ""))

    def stop(self, signals: _Signals) -> None:
        """Ends the jobs that this launcher started; a second signal, or 20 seconds, turns asking into killing."""
        deadline = time.monotonic() + STOP_SECONDS
        asked = len(signals.received)
        mine = [active for active in self.active if active.process is not None]
        if mine:
            self.display.note(f"stopping {len(mine)} run(s); what they did since their last checkpoint is lost")
        for active in self.active:
            if active.process is None:
                self.display.note(f"{active.job.name}: goes on as process {lock_holder(active.job.run.path)}")
        while mine := [active for active in mine if active.process is not None and not active.process.done()]:
            kill = time.monotonic() > deadline or len(signals.received) > asked
            for active in mine:
                assert active.process is not None
                # Repeated, because Submitit bypasses a SIGTERM that arrives before the job has its own handler.
                os.kill(int(active.process.job_id), signal.SIGTERM)  # the controller, which forwards it
                if kill:
                    _kill_task(active.job)
            time.sleep(POLL_SECONDS)


def in_order_of_start(jobs: Sequence[Job], seconds: Mapping[Path, float]) -> list[Job]:
    """Seed by seed, and of a seed first what the most work waits for: the longest run, or what leads to it. So all end together.

    Args:
        seconds: that each will take.
    """
    chains = {job.run.path: seconds[job.run.path] for job in jobs}
    for job in reversed(jobs):  # each stands after all that it starts from
        for path in job.after:
            if path in chains:
                chains[path] = max(chains[path], seconds[path] + chains[job.run.path])
    return sorted(jobs, key=lambda job: (job.seed, -chains[job.run.path]))


def _submit(call: Callable[[], object], folder: Path, threads: int) -> submitit.Job[object]:
    """Starts a job that finds our code, and whose maths libraries read their thread count from the environment, as they load."""
    executor = submitit.AutoExecutor(folder=folder, cluster="local")
    executor.update_parameters(timeout_min=TIMEOUT_MINUTES)
    variables = {**job_environment(), "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    with submitit.helpers.environment_variables(**variables), _without_sigint():
        return executor.submit(call)


@contextmanager
def _without_sigint() -> Iterator[None]:
    """Processes started inside never get SIGINT: Ctrl-C in a terminal reaches all of them, and the launcher alone decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_task(job: Job) -> None:
    """SIGKILL to the process that holds the run's lock, where it is one of this launcher's process group."""
    pid = lock_holder(job.run.path)
    if not pid:
        return
    try:
        if os.getpgid(pid) == os.getpgrp():
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _last_line(log: Path) -> str:
    """The last line of a job's error log: of a traceback, the error itself."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else "ended without a word: killed from outside, or out of memory"
