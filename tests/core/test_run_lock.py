"""Two processes never work on one run, and a killed one never blocks the next."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.run_lock import lock_holder, run_lock

HOLD = """
import sys, time
from pathlib import Path
from rf_repro.core.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(run: Path) -> "subprocess.Popen[str]":
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    with hold(tmp_path) as child:
        assert lock_holder(tmp_path) == child.pid
        with pytest.raises(UserError, match=rf"another process \(pid {child.pid} on .+\) works on it"), run_lock(tmp_path):
            pytest.fail("two holders")
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert lock_holder(tmp_path) is None
    with run_lock(tmp_path):
        assert lock_holder(tmp_path) is not None
    assert lock_holder(tmp_path) is None


def test_nobody_holds_a_run_that_does_not_exist(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_looking_does_not_keep_a_worker_out(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        pass
    code = "import sys\nfrom pathlib import Path\nfrom rf_repro.core.run_lock import lock_holder\n"
    code += "print('looking', flush=True)\nwhile True: lock_holder(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        for _ in range(20):
            with run_lock(tmp_path):
                pass
        child.kill()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, kind: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = rf"^{re.escape(str(tmp_path))}/\.lock: cannot be locked \(.+\); use a folder on a file system with locks$"
    with pytest.raises(UserError, match=message), run_lock(tmp_path):
        pass
    with pytest.raises(UserError, match=message):
        lock_holder(tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_that_is_no_file_of_ours_is_one_line_and_stays(tmp_path: Path, kind: str) -> None:
    lock, other = tmp_path / ".lock", tmp_path / "other"
    other.write_text("kept")
    if kind == "link":
        lock.symlink_to(other)
    else:
        lock.mkdir()
    with pytest.raises(UserError, match=r"\.lock: cannot be made \("), run_lock(tmp_path):
        pytest.fail("held")
    assert other.read_text() == "kept"


def test_a_holder_that_wrote_no_pid_is_somebody_all_the_same(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff" * 50)
        assert lock_holder(tmp_path) == 0
