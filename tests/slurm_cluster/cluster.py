"""What the tests ask of SLURM's commands: they read text and processes, so that what they assert is what SLURM says."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}


@dataclass(frozen=True)
class Row:
    """One line of squeue.

    Attributes:
        job: `12_3` for an element of an array, `12` for a job of its own.
        state: in words, `PENDING`.
        folder, output: the job's work directory and standard output, as it was submitted.
        reason: why it waits, or why it ended; may hold spaces.
    """

    job: str
    state: str
    folder: str
    output: str
    reason: str


def run(*command: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """A command with its output; AssertionError with its last words where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: status {done.returncode}: {done.stderr.strip()}"
    return done


def squeue(*jobs: str) -> list[Row]:
    """All that the controller remembers, ended jobs too (for MinJobAge), every element of an array a row of its own.

    Args:
        jobs: array or job ids to keep; none: all.
    """
    columns = "JobArrayID:|,State:|,WorkDir:|,StdOut:|,Reason:|"
    text = run("squeue", "--noheader", "--array", "--states=all", f"--Format={columns}").stdout
    rows = [Row(*(cell.strip() for cell in line.split("|")[:5])) for line in text.splitlines()]
    return [row for row in rows if not jobs or row.job.split("_")[0] in jobs]


def states(*jobs: str) -> dict[str, str]:
    """Job -> state of the given arrays or jobs."""
    return {row.job: row.state for row in squeue(*jobs)}


def ended(*jobs: str) -> bool:
    """Whether every element of the given arrays or jobs has ended for good."""
    found = states(*jobs)
    assert {job.split("_")[0] for job in found} == set(jobs), f"{jobs}: the controller knows {found}"
    return set(found.values()) <= ENDED


def wait_until(predicate: Callable[[], object], seconds: float, what: str) -> None:
    """Polls until `predicate()` is true; AssertionError with `what` and the queue after so many seconds."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            queue = states() if controller_answers() else "the controller is down"
            raise AssertionError(f"not within {seconds:g} s: {what}; queue: {queue}")
        time.sleep(0.2)


def sbatch(script: str, folder: Path, *options: str) -> str:
    """Submits a bash script and returns its id. All its starts write to `folder/JOB_ELEMENT.out`, without an array `JOB.out`."""
    path = folder / f"{time.monotonic_ns()}.sh"
    path.write_text("#!/bin/bash\n" + script)
    name = "%A_%a.out" if any(option.startswith("--array") for option in options) else "%j.out"
    done = run("sbatch", "--parsable", "--open-mode=append", f"--output={folder / name}", *options, path)
    return done.stdout.strip()


def as_root(command: Sequence[str]) -> list[str]:
    return list(command) if os.geteuid() == 0 else ["sudo", "-n", *command]


def restart_controller(down_seconds: float = 0.0, while_down: Callable[[], object] = lambda: None) -> None:
    """Stops slurmctld, calls `while_down`, and starts it again with the same configuration.

    By SIGTERM, as a service manager does it: slurmctld saves its state then. After SIGKILL a job that it started since
    it last saved would be started a second time and its node drained, which is SLURM's own doing and not ours to test.

    Args:
        down_seconds: how long it stays away, at least.
    """
    config = dict(line.split("=", 1) for line in run("scontrol", "show", "config").stdout.splitlines() if "=" in line)
    config = {key.strip(): value.strip() for key, value in config.items()}
    pid = Path(config["SlurmctldPidFile"]).read_text().strip()
    run(*as_root(["kill", f"-{signal.SIGTERM.value}", pid]))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, f"slurmctld (process {pid}) ends")
    try:
        while_down()
        time.sleep(down_seconds)
    finally:
        run(*as_root(["slurmctld"]))
        wait_until(controller_answers, 30, "slurmctld answers again")


def controller_answers() -> bool:
    return run("scontrol", "ping", check=False).returncode == 0
