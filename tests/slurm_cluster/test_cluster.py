"""SLURM does what the launcher and its job script count on. Where one of these fails, those would fail less clearly."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.slurm_cluster.cluster import ended, restart_controller, run, sbatch, squeue, states, wait_until

TASK = Path(__file__).parent / "task.py"
ME = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"'
STAMP = 'echo "$(date +%s.%N) $1 ${SLURM_RESTART_COUNT:-0}"'
SHOW = f"scontrol show job {ME} --oneliner | grep -oE '(JobState|Restarts)=[A-Z0-9]+' | xargs"
# Two ranks in the background, so that bash runs its traps at once.
RANKS = f"""
trap 'echo TERM batch' TERM
trap 'echo USR2 batch' USR2
[ -z "$SLURM_RESTART_COUNT" ] || exit 0
srun --ntasks=2 --kill-on-bad-exit=1 '{sys.executable}' -u '{TASK}' &
wait $!
while kill -0 $! 2>/dev/null; do wait $!; done; wait $!; status=$?
echo "srun ended $status"
{SHOW}
"""


def stamps(output: Path) -> dict[str, float]:
    """`start 0`, `end 1`, ...: event and restart count of a job -> when."""
    lines = [line.split(" ", 1) for line in output.read_text().splitlines() if re.match(r"\d+\.\d+ (start|end) \d+$", line)]
    return {event: float(when) for when, event in lines}


def start_ranks(folder: Path) -> tuple[str, Path, list[int]]:
    """A job with two ranks that are up: (its id, its output, the ranks' process ids)."""
    job = sbatch(RANKS, folder, "--array=0", "--ntasks=2")
    output = folder / f"{job}_0.out"
    pids: dict[str, int] = {}

    def up() -> bool:
        pids.update((rank, int(pid)) for rank, pid in re.findall(r"up rank (\d) pid (\d+)", said(output)))
        return len(pids) == 2

    wait_until(up, 20, "two ranks are up")
    return job, output, [pids["0"], pids["1"]]


def said(output: Path) -> str:
    return output.read_text() if output.exists() else ""


def test_rows_follow_their_own_predecessor_and_the_report_comes_after_all(runs: Path) -> None:
    """Of three rows the second fails and the third requeues itself: chains go on row by row, and nothing else is cancelled."""
    work = f"stamp() {{ {STAMP}; }}\nstamp start\nsleep 0.5\n"
    trouble = f"""
[ "$SLURM_ARRAY_TASK_ID" != 4 ] || exit 1
[ "$SLURM_ARRAY_TASK_ID" != 7 ] || [ -n "$SLURM_RESTART_COUNT" ] || {{ scontrol requeue {ME}; sleep 9; }}
"""
    first = sbatch(work + trouble + "stamp end", runs, "--array=0,4,7")
    follow = (f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes")
    then = sbatch(work + "stamp end", runs, "--array=0,4,7", *follow)
    report = sbatch(work, runs, f"--dependency=afterany:{first}:{then}")
    wait_until(lambda: ended(first, then, report), 40, "the report has run")

    assert states(first, then, report) == {
        f"{first}_0": "COMPLETED", f"{first}_4": "FAILED", f"{first}_7": "COMPLETED",
        f"{then}_0": "COMPLETED", f"{then}_4": "CANCELLED", f"{then}_7": "COMPLETED", report: "COMPLETED",
    }  # fmt: skip
    a0, a7 = stamps(runs / f"{first}_0.out"), stamps(runs / f"{first}_7.out")
    b0, b7 = stamps(runs / f"{then}_0.out"), stamps(runs / f"{then}_7.out")
    assert list(a7) == ["start 0", "start 1", "end 1"], "SIGTERM ends a script that requeued itself"
    assert a0["end 0"] < b0["start 0"] < a7["end 1"], "a row does not wait for others"
    assert a7["end 1"] < b7["start 0"], "the follower waits for the second end"
    assert stamps(runs / f"{report}.out")["start 0"] > b7["end 0"]
    assert not (runs / f"{then}_4.out").exists()


def test_a_requeue_by_element_leaves_the_others_alone_and_a_second_is_refused(runs: Path) -> None:
    """The last element's SLURM_JOB_ID is the array's id, so only ARRAY_ELEMENT names it alone."""
    job = sbatch('echo "start $SLURM_JOB_ID"; sleep 60', runs, "--array=0-1")
    wait_until(lambda: all(said(runs / f"{job}_{i}.out") for i in (0, 1)), 20, "both elements run")
    assert said(runs / f"{job}_1.out").split() == ["start", job]
    run("scontrol", "requeue", f"{job}_1")
    wait_until(lambda: states(job)[f"{job}_1"] == "PENDING", 20, "the element waits")
    again = run("scontrol", "requeue", f"{job}_1", check=False)
    assert (again.returncode, again.stderr.strip()) == (1, f"{job}_1: Job is pending execution")
    assert states(job)[f"{job}_0"] == "RUNNING"


def test_a_killed_rank_ends_the_others_and_its_status_reaches_the_script(runs: Path) -> None:
    job, output, pids = start_ranks(runs)
    os.kill(pids[1], signal.SIGKILL)
    wait_until(lambda: ended(job), 15, "the job ends")
    text = said(output)
    assert "TERM rank 0" in text
    assert "srun ended 137" in text
    assert "JobState=RUNNING Restarts=0" in text, "the script can still requeue itself"


@pytest.mark.parametrize(("command", "shown"), [
    (("scancel",), "JobState=COMPLETING Restarts=0"),
    (("scontrol", "requeue"), "JobState=COMPLETING Restarts=1"),
], ids=["scancel", "requeue"])  # fmt: skip
def test_the_script_outlives_its_ranks_and_can_tell_a_cancel_from_a_requeue(
    runs: Path, command: tuple[str, ...], shown: str
) -> None:
    job, output, _ = start_ranks(runs)
    run(*command, f"{job}_0")
    wait_until(lambda: "JobState" in said(output), 15, "the script says what SLURM shows")
    text = said(output)
    assert {"TERM rank 0", "TERM rank 1", "TERM batch"} <= {line.removeprefix("SIG") for line in text.splitlines()}
    assert shown in text


def test_scancel_signal_reaches_the_ranks_and_not_the_script(runs: Path) -> None:
    job, output, _ = start_ranks(runs)
    run("scancel", "--signal=USR2", f"{job}_0")
    wait_until(lambda: said(output).count("SIGUSR2") == 2, 10, "both ranks have the signal")
    assert "USR2 batch" not in said(output)
    assert states(job) == {f"{job}_0": "RUNNING"}


def test_a_restarted_controller_remembers_what_ended_without_it(runs: Path) -> None:
    job = sbatch(f"echo start; while [ ! -e '{runs}/go' ]; do sleep 0.1; done; exit $SLURM_ARRAY_TASK_ID", runs, "--array=0,5")
    then = sbatch("true", runs, "--array=0,5", f"--dependency=aftercorr:{job}", "--kill-on-invalid-dep=yes")
    wait_until(lambda: all(said(runs / f"{job}_{i}.out") for i in (0, 5)), 20, "both elements run")
    asked: list[int] = []

    def while_down() -> None:
        (runs / "go").touch()
        asked.append(run("scontrol", "ping", check=False).returncode)

    restart_controller(1.0, while_down)
    assert asked == [1]
    wait_until(lambda: ended(job, then), 60, "the ends are known")
    assert states(job, then) == {
        f"{job}_0": "COMPLETED", f"{job}_5": "FAILED", f"{then}_0": "COMPLETED", f"{then}_5": "CANCELLED",
    }  # fmt: skip


def test_a_dependency_on_a_forgotten_job_counts_as_met(runs: Path) -> None:
    """Whether that job succeeded or not: an id is worth nothing once the controller forgot it, so jobs check their inputs."""
    assert run("squeue", "--noheader", "--jobs=900000", check=False).returncode == 1
    job = sbatch("true", runs, "--dependency=afterok:900000", "--kill-on-invalid-dep=yes")
    wait_until(lambda: ended(job), 20, "it runs")
    assert [row.state for row in squeue(job)] == ["COMPLETED"]


def test_array_indices_stop_below_max_array_size(runs: Path) -> None:
    size = int(re.search(r"^MaxArraySize\s*=\s*(\d+)", run("scontrol", "show", "config").stdout, re.M)[1])  # type: ignore[index]
    held = sbatch("true", runs, "--hold", f"--array={size - 1}")
    assert states(held) == {f"{held}_{size - 1}": "PENDING"}
    with pytest.raises(AssertionError, match="Invalid job array specification"):
        sbatch("true", runs, f"--array={size}")
