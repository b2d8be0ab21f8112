"""The file about starting again, as the batch script and the job write it in turns."""

import subprocess
from pathlib import Path

import pytest

from slurm.requeue import Requeue, end, read_requeue, setup, stopped


def start(folder: Path, max_crashes: int = 2, index: str | None = "4") -> None:
    """What a batch script does before srun, in a real shell."""
    environment = {"PATH": "/usr/bin:/bin", **({"SLURM_ARRAY_TASK_ID": index} if index is not None else {})}
    done = subprocess.run(
        ["bash", "-eu", "-c", "\n".join(setup(folder, max_crashes))], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_starts_that_are_cut_short_are_counted_until_there_is_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    file = folder / "requeue-4"
    assert read_requeue(file) is None
    seen = []
    for _ in range(4):
        start(folder)
        seen.append(read_requeue(file))
    assert seen == [
        Requeue(True, "running", 0),
        Requeue(True, "running", 1),
        Requeue(False, "running", 2),
        Requeue(False, "running", 3),
    ]


def test_a_start_that_ended_by_a_signal_is_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "requeue-0"
    start(tmp_path, index=None)  # a job of one run is no array
    start(tmp_path, index=None)
    assert stopped(file, 2, progress=True) == read_requeue(file) == Requeue(True, "stopped", 1)
    start(tmp_path, index=None)
    assert read_requeue(file) == Requeue(True, "running", 1)


def test_starts_that_get_nowhere_are_counted_as_crashes(tmp_path: Path) -> None:
    file = tmp_path / "requeue-4"
    fates = []
    for _ in range(3):
        start(tmp_path)
        fates.append(stopped(file, 2, progress=False).again)
    assert fates == [True, True, False]


@pytest.mark.parametrize("crashes", [0, 1])
def test_what_ended_by_itself_does_not_start_again(tmp_path: Path, crashes: int) -> None:
    for _ in range(crashes + 1):
        start(tmp_path)
    end(tmp_path / "requeue-4")
    assert read_requeue(tmp_path / "requeue-4") == Requeue(False, "ended", crashes)
