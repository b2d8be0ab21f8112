"""What SLURM's queue says, through `squeue`, `scontrol` and `scancel` alone: accounting (`sacct`) is not needed."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from rf_repro.core.errors import UserError

_COLUMNS = "%i|%T|%r|%M|%N|%k"  # id, state, reason, time used, nodes, comment
_SECONDS = 60  # before a command counts as without answer
_CHUNK = 500  # job ids in one scancel
DEFAULT_MAX_ARRAY = 1001  # SLURM's own


@dataclass(frozen=True)
class QueuedJob:
    """A job or array element that SLURM still has. `id` is `123` or `123_4`; `comment` the token of its submission."""

    id: str
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str
    elapsed: str
    nodes: str
    comment: str

    @property
    def pending(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def read_queue() -> dict[str, QueuedJob]:
    """This user's jobs by id, array elements one by one.

    Raises:
        UserError: there is no `squeue`, or the controller does not answer.
    """
    lines = _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", f"--format={_COLUMNS}").splitlines()
    jobs = (QueuedJob(*(field.strip() for field in line.split("|", 5))) for line in lines if line)
    return {job.id: job for job in jobs}


def max_array_size() -> int:
    """Indices of an array stay below this (`MaxArraySize`)."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else DEFAULT_MAX_ARRAY


def cancel(ids: Sequence[str]) -> None:
    """Cancels jobs and array elements; those that have ended meanwhile are no error. Raises UserError as `read_queue`."""
    for first in range(0, len(ids), _CHUNK):
        _ask("scancel", "--quiet", *ids[first : first + _CHUNK])


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except FileNotFoundError:
        raise UserError(
            f"{command[0]}: no such command, so there is no SLURM on this machine; go to a login node of the cluster, or use "
            "--cluster local, or --dry-run"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: SLURM's controller has not answered for {_SECONDS} s; try again later") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip() or f"exit status {error.returncode}").splitlines()[-1]
        raise UserError(f"{command[0]}: {said}; see `scontrol ping` for SLURM's controller") from None
