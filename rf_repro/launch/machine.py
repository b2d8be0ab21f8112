"""What this machine is and how fast, found out by processes of their own: the launcher itself loads no torch."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean
from typing import Any

from rf_repro.core.capacity import usable_bytes, usable_cores
from rf_repro.core.errors import UserError
from rf_repro.core.import_path import job_environment
from rf_repro.core.shown import say
from rf_repro.launch.forecast import Speed, seconds_left, time_of_all
from rf_repro.launch.plan import Job
from rf_repro.launch.progress import read_progress

MEASURED_SECONDS = 10.0
PATIENCE = 300.0  # seconds, on a machine that is slow or busy
MOST_RUNS = 4  # at once, unless there are more GPUs: a table has as many, and a login node is not ours alone
RUN_BYTES = 1.5 * 2**30  # of a run at `tiny`, with room


@dataclass(frozen=True)
class Machine:
    """What `rf_repro.experiment.measure` found.

    Attributes:
        gpus: entries for CUDA_VISIBLE_DEVICES, one each; none where nothing runs on CUDA.
        speeds: of runs, by `run_key`.
    """

    system: str
    processor: str
    device: str
    kind: str
    arithmetic: str
    gpus: tuple[str, ...]
    speeds: Mapping[str, Speed]

    def speed(self, job: Job) -> Speed:
        """As measured, or the mean of what was: of stages for a stage, of variants for a variant."""
        if run_key(job) in self.speeds:
            return self.speeds[run_key(job)]
        alike = [speed for key, speed in self.speeds.items() if _is_variant(key) == (job.prerequisite is None)]
        measured = alike or list(self.speeds.values())
        return Speed(*(mean(getattr(one, item.name) for one in measured) for item in fields(Speed))) if measured else Speed()

    def describe(self, at_once: int, jobs: Sequence[Job]) -> str:
        """One line: machine, arithmetic, runs at once, and the minutes that these jobs will take."""
        where = f"{len(self.gpus)} x {self.device}" if len(self.gpus) > 1 else self.device
        if self.kind == "cpu":
            where = f"CPU, {usable_cores()} core{'s' * (usable_cores() != 1)}"
        lacks = " (it has no bf16 instructions)" if self.arithmetic == "fp32" and self.kind == "cpu" else ""
        minutes = (
            time_of_all({}, [(job, seconds_left(job, self.speed(job), read_progress(job).step)) for job in jobs], at_once) / 60
        )
        runs = f"{len(jobs)} run{'s' * (len(jobs) != 1)}, {at_once} at once, about {max(1, round(minutes))} minutes"
        return f"{self.system}, {self.processor}; on {where} in {self.arithmetic}{lacks}; {runs}"


def run_key(job: Job) -> str:
    """Of runs that do the same work, whatever their seed."""
    return f"{job.kind}: {job.variant}/{job.run.path.name.rpartition('-s')[0]}"


def _is_variant(key: str) -> bool:
    return key.startswith("variant: ")


def default_jobs() -> int:
    """Runs at once, of one thread each: as many as there are cores and memory for, at most four."""
    return max(1, min(usable_cores(), MOST_RUNS, int(usable_bytes() // RUN_BYTES)))


def look_at(jobs: Sequence[Job], device: str, count: int, threads: int = 1) -> Machine | None:
    """Measures the machine while `count` processes work side by side, as runs will; None where that was not possible in time.

    Args:
        jobs: whose work is measured, the first ones first.
        device: auto, cpu, cuda or mps.

    Raises:
        UserError: the device is not there, or it was asked for by name and fails.
    """
    runs = {run_key(job): {"config": job.config.to_dict(), "kind": job.kind, "name": job.variant} for job in jobs}
    names = list(runs)
    shares = [names[index::count] for index in range(min(count, len(names)))]
    processes = [_start({name: runs[name] for name in share}, device, threads) for share in shares]
    try:
        answers = [_answer(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    found = [answer for answer in answers if answer is not None]
    if not found:
        return None
    told = {line: None for answer in found for line in answer["told"]}
    if told:
        say(*told, file=sys.stderr)
    measured = {name: speed for answer in found for name, speed in answer["speeds"].items()}
    defaults = {name: _mean_of(measured.values(), name, guess) for name, guess in asdict(Speed()).items()}
    one = found[0]["machine"]
    return Machine(
        one["system"], one["processor"], one["device"], one["kind"], one["arithmetic"], _visible_gpus(one["gpus"]),
        {name: Speed(**(defaults | speed)) for name, speed in measured.items()},
    )  # fmt: skip


def _mean_of(speeds: Collection[dict[str, float]], name: str, default: float) -> float:
    found = [speed[name] for speed in speeds if name in speed]
    return mean(found) if found else default


def _start(runs: dict[str, Any], device: str, threads: int) -> "subprocess.Popen[str]":
    environment = os.environ | job_environment() | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rf_repro.experiment.measure"], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps({"device": device, "threads": threads, "seconds": MEASURED_SECONDS, "runs": runs}))
    process.stdin.close()
    process.stdin = None  # or `communicate` would flush it
    return process


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any] | None:
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None
    if process.returncode:  # a forecast is not worth a run, which will say what is wrong if it is
        say(f"measuring this machine failed: {(errors.splitlines() or ['killed'])[-1]}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(output)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def _visible_gpus(count: int) -> tuple[str, ...]:
    """Of the first so many that CUDA sees: what each is called in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",") if named else map(str, range(count)))[:count]
