"""Who puts a job back into the queue, and when.

A job that stops at a signal asks SLURM itself, through Submitit. A job that was killed cannot; then the batch script does,
in the few lines of `TEARDOWN` behind srun. What it needs to know stands in a file that the job has written in advance:

    yes running 1     work is going on after one crash; if it is cut short, it may start again
    no running 3      the last start that it has
    yes stopped 1     stopped at a signal, saved
    no ended 1        done, or failed by itself: nothing to start again
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rf_repro.core.files import write_text

State = Literal["running", "stopped", "ended"]

_FILE = '"${SLURM_ARRAY_TASK_ID:-0}"'


def setup(folder: Path, max_crashes: int) -> list[str]:
    """Lines of the batch script before srun: count a start before this one that was cut short, even while Python was loading.

    Args:
        folder: of the `requeue-INDEX` files.
        max_crashes: starts that may get nowhere before it is left to the user.
    """
    return f"""\
set +eu  # whatever the profile's own commands said: this script has to see how srun ends
trap : TERM
again={shlex.quote(str(folder))}/requeue-{_FILE}
read -r _ before crashes 2> /dev/null < "$again" || crashes=0
[ "$before" != running ] || crashes=$((crashes + 1))
if [ "$crashes" -lt {max_crashes} ]; then echo "yes running $crashes"; else echo "no running $crashes"; fi > "$again"
export RF_RENDEZVOUS="${{again%/*}}/rendezvous-$(date +%s%N)-$$"  # where the ranks of this start meet
""".splitlines()


# JobState is RUNNING only while nobody has asked to end this start: a job that is being cancelled, or that SLURM or the job
# itself has put back already, is COMPLETING, and asking again could kill its next start.
TEARDOWN = """\
status=$?
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"  # this element alone
read -r again _ < "$again"
for attempt in $(seq 60); do
  [ "$again" = yes ] || break
  state=$(scontrol show job --oneliner "$job" | grep -o 'JobState=[A-Z]*')  # empty while the controller is away
  case "$state" in
    JobState=RUNNING) scontrol requeue "$job" && echo "put back into the queue after exit status $status" && break ;;
    JobState=*) break ;;
  esac
  sleep 10
done
exit $status""".splitlines()


@dataclass(frozen=True)
class Requeue:
    """The content of the file. `crashes`: starts that were cut short, or that ended no further than they began."""

    again: bool
    state: State
    crashes: int

    def write(self, path: Path) -> None:
        write_text(path, f"{'yes' if self.again else 'no'} {self.state} {self.crashes}\n")


def read_requeue(path: Path) -> Requeue | None:
    """What `setup` or the job wrote last; None before the job's first start."""
    if not path.exists():
        return None
    again, state, crashes = path.read_text(encoding="utf-8").split()
    return Requeue(again == "yes", state, int(crashes))  # type: ignore[arg-type]


def stopped(path: Path, max_crashes: int, progress: bool) -> Requeue:
    """After a signal: another start, unless starts that get nowhere have used up what is allowed."""
    crashes = _crashes(path) + (not progress)
    now = Requeue(crashes <= max_crashes, "stopped", crashes)
    now.write(path)
    return now


def end(path: Path) -> None:
    """Done, or failed in a way that would come again."""
    Requeue(False, "ended", _crashes(path)).write(path)


def _crashes(path: Path) -> int:
    before = read_requeue(path)
    return 0 if before is None else before.crashes
