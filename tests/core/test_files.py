"""Files keep their old content, whole, however a write ends."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.files import (
    append_jsonl,
    atomic_folder,
    atomic_path,
    read_json,
    read_jsonl,
    remove_leftovers,
    write_json,
    write_jsonl,
    write_text,
)


def test_an_error_while_writing_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError), atomic_path(target) as temporary:
        temporary.write_text("half of the n" + "\ud800", encoding="utf-8")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_writer_killed_in_the_middle_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    write_json(target, {"step": 1})
    code = """
import sys, time
from pathlib import Path
from rf_repro.core.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text('{"step": ')
    print("half written", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half written\n"
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert read_json(target) == {"step": 1}


def test_what_a_killed_writer_left_is_removed_and_what_another_still_writes_is_not(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from rf_repro.core.files import atomic_path\n" \
           "with atomic_path(Path(sys.argv[1])): os.kill(os.getpid(), 9)"  # fmt: skip
    (tmp_path / "run").mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run" / "killed.json")], check=False)
    with atomic_path(tmp_path / "run" / "slow.json") as temporary:
        temporary.write_text("new")
        assert len(list((tmp_path / "run").iterdir())) == 2
        remove_leftovers(tmp_path)
        assert list((tmp_path / "run").iterdir()) == [temporary]
    assert (tmp_path / "run" / "slow.json").read_text() == "new"


def test_a_full_disk_is_a_user_error_and_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "items.jsonl"
    write_text(target, "old")
    code = """
import resource, sys
from pathlib import Path
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{target}: cannot write (")
    assert len(done.stdout.splitlines()) == 1
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "runs" / "run.json", {})


def test_a_folder_takes_the_place_of_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "images"
    for names in (("old", "older"), ("new",)):
        with atomic_folder(target, {"old", "older"}.__contains__) as temporary:
            for name in names:
                (temporary / name).write_text(name)
    ours = {"new"}.__contains__
    with pytest.raises(UserError, match=r"images: cannot write \(full\); free space or"), atomic_folder(target, ours):
        raise OSError(errno.ENOSPC, "full")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(UserError, match="cannot write"), atomic_folder(target / "new" / "below"):
        pass


@pytest.mark.parametrize("interrupted", [1, 1.5, 2])
def test_an_interruption_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: float
) -> None:
    """Control-C before the first rename (the old one, aside), after it, or before the second (the new one, to its place)."""
    target, calls, rename = tmp_path / "images", [], Path.rename
    target.mkdir()
    (target / "old").write_text("the only copy")

    def stopped(path: Path, to: Path) -> Path:
        calls.append(path)
        if len(calls) == interrupted:
            raise KeyboardInterrupt
        rename(path, to)
        if len(calls) + 0.5 == interrupted:
            raise KeyboardInterrupt
        return to

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, {"old"}.__contains__) as temporary:
        (temporary / "new").write_text("new")
    assert (target / "old").read_text() == "the only copy"
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("stranger", ["thesis.txt", "link", "below/link", "pipe"])
def test_a_folder_that_holds_anything_else_is_not_replaced(tmp_path: Path, stranger: str) -> None:
    target, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("kept")
    (target / stranger).parent.mkdir(parents=True)
    (target / "old").write_text("old")
    if stranger.endswith("link"):
        (target / stranger).symlink_to(elsewhere)
    elif stranger == "pipe":
        os.mkfifo(target / stranger)
    else:
        (target / stranger).write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    ours = {"old", "link", "below/link", "pipe"}.__contains__  # by name
    with (
        pytest.raises(UserError, match=f"images: holds {stranger}, which was not made here; move it"),
        atomic_folder(target, ours),
    ):
        pytest.fail("begun")
    assert sorted(tmp_path.rglob("*")) == before
    later = tmp_path / "later"

    def fill_meanwhile() -> None:
        later.mkdir()
        (later / "new").write_text("of another process")

    with pytest.raises(UserError, match="later: holds new, which"), atomic_folder(later):
        fill_meanwhile()
    assert (later / "new").exists()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link"), atomic_folder(tmp_path / "link", lambda name: True):
        pytest.fail("begun")
    assert (elsewhere / "mine").read_text() == "kept"


def test_leftovers_are_what_a_writer_of_ours_names_so_and_no_link(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere):
        folder.mkdir()
        (folder / ".run.json.abcdefgh.tmp").write_text("{")
    (run / ".notes.tmp").write_text("mine")
    (run / ".link.json.abcdefgh.tmp").symlink_to(elsewhere / ".run.json.abcdefgh.tmp")
    (run / "samples").symlink_to(elsewhere)
    os.mkfifo(run / ".pipe.abcdefgh.tmp")
    remove_leftovers(run)
    assert sorted(item.name for item in run.iterdir()) == [
        ".link.json.abcdefgh.tmp",
        ".notes.tmp",
        ".pipe.abcdefgh.tmp",
        "samples",
    ]
    assert (elsewhere / ".run.json.abcdefgh.tmp").exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc, as Linux has it")
def test_what_is_renamed_is_on_the_disk_first_and_so_is_the_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def renamed(path: Path, to: Path) -> Path:
        done.append("renamed")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
    assert [Path(name).name for name in done] == ["config.json", "new", "renamed", tmp_path.name]
    done.clear()
    write_text(tmp_path / "record", "")
    assert Path(done[0]).name.startswith(".record.")
    assert done[1:] == [str(tmp_path)]


def test_records_get_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "record", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o640


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", {"score": float("nan")})
    assert not (tmp_path / "record.json").exists()


def test_bad_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json: not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_a_torn_last_line_is_dropped_and_any_other_bad_line_raises(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"step": 1})
    append_jsonl(path, {"step": 2})
    whole = path.read_bytes()
    for cut in range(len(whole) - len(b'{"step": 2}\n') + 1, len(whole) - 1):  # every way to lose the end of line 2
        path.write_bytes(whole[:cut])
        assert read_jsonl(path) == [{"step": 1}]
    path.write_bytes(b'{"step"\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: not valid JSON"):
        read_jsonl(path)
    path.write_bytes(b'{"step": 1}\n{"step"\n')  # a newline follows: it was not torn by a kill
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        read_jsonl(path)


def test_jsonl_round_trip(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "line\nbreak"}, {"a": None}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_compressed_rows_read_back_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    rows = [{"step": step, "text": "é"} for step in range(100)]
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_jsonl(tmp_path / name, rows)
    assert read_jsonl(tmp_path / "a.jsonl.gz") == rows
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert (tmp_path / "a.jsonl.gz").stat().st_size < 1000
    for damaged in (b"not gzip", (tmp_path / "a.jsonl.gz").read_bytes()[:-20]):
        (tmp_path / "c.jsonl.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"c\.jsonl\.gz: not valid gzip"):
            read_jsonl(tmp_path / "c.jsonl.gz")
