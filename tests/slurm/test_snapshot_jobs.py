"""What runs from a snapshot: Python that imports nothing else, and that notices damage."""

import json
import shutil
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from slurm.snapshot import Snapshot, make_snapshot, verify
from tests.slurm.trees import STATE, make_checkout, python


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "tree")


@pytest.mark.parametrize("dirty", [False, True])
def test_records_of_a_job_name_the_tree_that_was_submitted(checkout: Path, tmp_path: Path, dirty: bool) -> None:
    if dirty:
        (checkout / "tests" / "test_it.py").write_text("changed = True\n")  # not in the snapshot, but in the tree
    snapshot = make_snapshot(tmp_path / "code", checkout)
    said = python(STATE, snapshot.path).stdout
    assert said == python(STATE, checkout).stdout == f"{(snapshot.revision, snapshot.dirty)}\n"
    assert (snapshot.dirty is not None) == dirty
    again = make_snapshot(tmp_path / "other", snapshot.path)  # by a job that submits
    assert (again.digest, again.revision, again.dirty) == (snapshot.digest, snapshot.revision, snapshot.dirty)


def test_python_started_there_imports_from_there_although_the_package_is_installed(checkout: Path, tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "code", checkout)
    where = "import rf_repro; print(rf_repro.__file__)"
    assert python(where, tmp_path, checkout).stdout == f"{checkout}/rf_repro/__init__.py\n"  # another one is there to be found
    for path in (None, checkout):
        assert python(where, snapshot.path, path).stdout == f"{snapshot.path}/rf_repro/__init__.py\n"
    assert python(where, tmp_path, snapshot.path).stdout == f"{snapshot.path}/rf_repro/__init__.py\n"


def runs_from(snapshot: Snapshot, cwd: Path, path: Path, before: str = "") -> str:
    """The last line that a process writes which checks that it runs from the snapshot; `yes` if it is content."""
    code = f"{before}\nfrom pathlib import Path\nfrom slurm.snapshot import assert_running_from\n"
    done = python(code + f"assert_running_from(Path({str(snapshot.path)!r}))\nprint('yes')", cwd, path)
    return (done.stdout + done.stderr).strip().split("\n")[-1]


def test_a_job_knows_whether_it_runs_from_the_snapshot(checkout: Path, tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "code", checkout)
    assert runs_from(snapshot, tmp_path, snapshot.path) == "yes"
    link = tmp_path / "link"
    link.symlink_to(snapshot.path)
    assert runs_from(snapshot, tmp_path, link) == "yes"
    assert f"rf_repro comes from {checkout}/rf_repro/__init__.py, not from the snapshot" in runs_from(
        snapshot, tmp_path, checkout
    )
    # One module from elsewhere is enough, loaded already or not.
    stray = tmp_path / "stray" / "evaluators"
    stray.mkdir(parents=True)
    (stray / "__init__.py").write_text("")
    front = f"import sys; sys.path.insert(0, {str(stray.parent)!r})"
    for before in (front, f"{front}; import evaluators; sys.path.pop(0)"):
        assert f"evaluators comes from {stray}/__init__.py" in runs_from(snapshot, tmp_path, snapshot.path, before)
    (stray / "extra.py").write_text("")
    before = f"import slurm; slurm.__path__.append({str(stray)!r}); import slurm.extra"
    assert f"slurm.extra comes from {stray}/extra.py" in runs_from(snapshot, tmp_path, snapshot.path, before)


@pytest.mark.parametrize("damage", ["edit", "add", "remove", "chmod", "diff", "origin", "record", "name"])
def test_a_damaged_snapshot_is_noticed(checkout: Path, tmp_path: Path, damage: str) -> None:
    (checkout / "slurm" / "__init__.py").write_text("edited = True\n")
    snapshot = make_snapshot(tmp_path / "code", checkout)
    for path in snapshot.path.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)
    if damage == "edit":
        (snapshot.path / "rf_repro" / "__init__.py").write_text("")
    elif damage == "add":
        (snapshot.path / "slurm" / "more.py").write_text("")
    elif damage == "remove":
        (snapshot.path / "slurm" / "run.sh").unlink()
    elif damage == "chmod":
        (snapshot.path / "slurm" / "run.sh").chmod(0o644)
    elif damage == "diff":
        (snapshot.path / "dirty.diff").write_text("")
    elif damage == "origin":
        made = json.loads((snapshot.path / "snapshot.json").read_text())
        (snapshot.path / "snapshot.json").write_text(json.dumps({**made, "revision": "0" * 40}))
    elif damage == "record":
        (snapshot.path / "snapshot.json").unlink()
    else:  # another snapshot, whole, under this one's name
        shutil.rmtree(snapshot.path)
        (checkout / "slurm" / "__init__.py").write_text("edited = 'again'\n")
        make_snapshot(tmp_path / "code", checkout).path.rename(snapshot.path)
        (checkout / "slurm" / "__init__.py").write_text("edited = True\n")
    message = rf"{snapshot.path}: this snapshot of the code is damaged .*; delete the folder"
    with pytest.raises(UserError, match=message):
        verify(snapshot.path)
    if damage in ("edit", "add", "diff"):  # what the submitter and the job see
        with pytest.raises(UserError, match=message):
            make_snapshot(tmp_path / "code", checkout)
        assert "is damaged" in runs_from(snapshot, tmp_path, snapshot.path)
    shutil.rmtree(snapshot.path)
    assert make_snapshot(tmp_path / "code", checkout) == snapshot
    verify(snapshot.path)


def test_what_python_compiles_there_is_no_damage(checkout: Path, tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "code", checkout)
    assert runs_from(snapshot, tmp_path, snapshot.path, "import sys; sys.dont_write_bytecode = False") == "yes"
    assert list(snapshot.path.rglob("*.pyc"))
    assert make_snapshot(tmp_path / "code", checkout) == snapshot
