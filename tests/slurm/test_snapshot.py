"""Snapshots of real git checkouts: what is copied and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from slurm.snapshot import PACKAGES, make_snapshot
from tests.slurm.trees import STATE, git, make_checkout, make_tree, python


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "tree")


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def expected(root: Path) -> dict[str, bytes]:
    """What a snapshot has to hold, told from names alone."""
    return {
        name: content
        for name, content in contents(root).items()
        if (name.split("/")[0] in PACKAGES or name == "pyproject.toml") and not name.startswith("reports/results/")
    }


def test_it_holds_the_packages_as_they_are_and_where_they_came_from(checkout: Path, tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "code", checkout)
    found = contents(snapshot.path)
    made = json.loads(found.pop("snapshot.json"))
    assert found == expected(checkout)
    assert snapshot.path == tmp_path / "code" / snapshot.digest[:12]
    assert len(snapshot.digest) == 64
    assert made == {
        "digest": snapshot.digest, "revision": git(checkout, "rev-parse", "HEAD").strip(), "dirty": None, "files": len(found),
        "version": made["version"],
    }  # fmt: skip
    modes = {path.name: path.stat().st_mode & 0o777 for path in snapshot.path.rglob("*") if path.is_file()}
    assert modes.pop("run.sh") & 0o333 == 0o111 & (modes["snapshot.json"] >> 2)
    assert set(modes.values()) == {modes["snapshot.json"]}
    assert modes["snapshot.json"] & 0o333 == 0
    assert [path.name for path in (tmp_path / "code").iterdir()] == [snapshot.path.name]  # nothing temporary stays


def test_editing_the_tree_changes_no_snapshot_and_the_same_tree_gives_the_same(checkout: Path, tmp_path: Path) -> None:
    file, folder = checkout / "slurm" / "__init__.py", tmp_path / "code"
    before = file.read_text()
    first = make_snapshot(folder, checkout)
    inode = (first.path / "slurm" / "__init__.py").stat().st_ino
    file.write_text("edited = True\n")
    second = make_snapshot(folder, checkout)
    assert (first.path / "slurm" / "__init__.py").read_text() == before
    assert (second.path / "slurm" / "__init__.py").read_text() == "edited = True\n"
    file.write_text(before)
    assert make_snapshot(folder, checkout) == first
    assert (first.path / "slurm" / "__init__.py").stat().st_ino == inode  # found, not written again
    assert len(list(folder.iterdir())) == 2


def test_content_name_executable_bit_and_commit_each_name_another_snapshot(checkout: Path, tmp_path: Path) -> None:
    file = checkout / "slurm" / "run.sh"
    digests = [make_snapshot(tmp_path / "code", checkout).digest]
    git(checkout, "commit", "-q", "--allow-empty", "-m", "no change, but records are to name this commit")
    digests.append(make_snapshot(tmp_path / "code", checkout).digest)
    file.write_text("#!/bin/sh\ntrue\n")
    digests.append(make_snapshot(tmp_path / "code", checkout).digest)
    file.chmod(0o644)
    digests.append(make_snapshot(tmp_path / "code", checkout).digest)
    git(checkout, "mv", "slurm/run.sh", "slurm/go.sh")
    digests.append(make_snapshot(tmp_path / "code", checkout).digest)
    assert len(set(digests)) == 5


def test_the_uncommitted_changes_are_kept_and_can_be_applied(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "config", "diff.noprefix", "true")  # a user's setting, which must not show
    git(checkout, "config", "color.diff", "always")
    (checkout / "slurm" / "__init__.py").write_text("edited = True\n")
    (checkout / "reports" / "page" / "logo.bin").write_bytes(b"\0\1\2")
    (checkout / "evaluators" / "new.py").write_text("new = True\n")
    git(checkout, "add", "evaluators/new.py")
    (checkout / "ablations" / "__init__.py").unlink()
    snapshot = make_snapshot(tmp_path / "code", checkout)
    diff = (snapshot.path / "dirty.diff").read_bytes()
    assert snapshot.dirty == hashlib.sha256(diff).hexdigest()
    assert not (snapshot.path / "ablations").exists()  # deleted here, whatever git still has
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(checkout), str(other))
    git(other, "checkout", "-q", str(snapshot.revision))
    git(other, "apply", str(snapshot.path / "dirty.diff"))
    assert expected(other) == expected(snapshot.path) == expected(checkout)


def test_untracked_sources_are_refused_by_name(checkout: Path, tmp_path: Path) -> None:
    (checkout / "notes.txt").write_text("")  # not in a package
    (checkout / "tests" / "new.py").write_text("")
    (checkout / "reports" / "results" / "new.json").write_text("")
    make_snapshot(tmp_path / "code", checkout)
    for index in range(7):
        (checkout / "slurm" / f"new{index}.py").write_text("")
    with pytest.raises(UserError, match=r"new0\.py, .*new4\.py and 2 more, .*git add") as refused:
        make_snapshot(tmp_path / "other", checkout)
    assert "new5" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "other").exists()
    git(checkout, "add", "slurm")
    assert (make_snapshot(tmp_path / "other", checkout).path / "slurm" / "new6.py").exists()


def test_ignored_files_are_left_behind(checkout: Path, tmp_path: Path) -> None:
    (checkout / "slurm" / "scratch.tmp").write_text("")
    (checkout / "slurm" / "__pycache__").mkdir()
    (checkout / "slurm" / "__pycache__" / "x.pyc").write_text("")
    snapshot = make_snapshot(tmp_path / "code", checkout)
    assert not list(snapshot.path.rglob("*.tmp")) + list(snapshot.path.rglob("*.pyc"))


def test_links_inside_become_files_and_links_out_are_refused(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("secret = True\n")
    (checkout / "slurm" / "alias.py").symlink_to("snapshot.py")
    git(checkout, "add", "slurm/alias.py")
    alias = make_snapshot(tmp_path / "code", checkout).path / "slurm" / "alias.py"
    assert not alias.is_symlink()
    assert alias.read_bytes() == (checkout / "slurm" / "snapshot.py").read_bytes()
    for target in (tmp_path / "secret.py", Path("core"), Path("missing.py")):
        link = checkout / "rf_repro" / "link.py"
        link.symlink_to(target)
        git(checkout, "add", "rf_repro/link.py")
        with pytest.raises(UserError, match=rf"link\.py: links to {target}, not to a file of this tree"):
            make_snapshot(tmp_path / "code", checkout)
        link.unlink()


def test_submodules_are_refused(checkout: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    git(inner, "commit", "-q", "--allow-empty", "-m", "one")
    git(checkout, "submodule", "--quiet", "add", str(inner), "slurm/inner")
    with pytest.raises(UserError, match="slurm/inner is a git submodule"):
        make_snapshot(tmp_path / "code", checkout)


def test_what_git_says_reaches_the_user(tree: Path, tmp_path: Path) -> None:
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    with pytest.raises(UserError, match=r"git rev-parse failed \(fatal: .*\); mend the repository"):  # nothing committed
        make_snapshot(tmp_path / "code", tree)
    with pytest.raises(UserError, match="holds no package rf_repro"):
        make_snapshot(tmp_path / "code", tmp_path)


def test_a_folder_that_cannot_be_written_says_so(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/[0-9a-f]{12}: cannot write \(File exists\); free space or choose another"):
        make_snapshot(tmp_path / "file", checkout)


def test_installed_code_is_copied_as_it_lies(tree: Path, tmp_path: Path) -> None:
    """Also where the environment it is installed in lies in the checkout of something else."""
    git(tmp_path, "init", "-q")
    (tmp_path / "unrelated").write_text("")
    git(tmp_path, "add", "unrelated")
    git(tmp_path, "commit", "-q", "-m", "unrelated")
    (tree / "slurm" / "__pycache__").mkdir()
    (tree / "slurm" / "__pycache__" / "x.pyc").write_text("")
    snapshot = make_snapshot(tmp_path / "code", tree)
    assert (snapshot.revision, snapshot.dirty) == (None, None)
    assert {name for name in contents(snapshot.path) if name != "snapshot.json"} == set(expected(tree))
    assert python(STATE, snapshot.path).stdout == python(STATE, tree).stdout == "(None, None)\n"
    (tree / "slurm" / "linked").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"slurm/linked: links to .*, not to a file of this tree"):
        make_snapshot(tmp_path / "code", tree)


def test_a_checkout_without_git_cannot_be_told_from_a_changed_one(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = make_snapshot(tmp_path / "code", checkout)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"{checkout}: git is not installed"):
        make_snapshot(tmp_path / "code", checkout)
    assert python(STATE, checkout).stdout == "(None, None)\n"  # a run goes on all the same
    assert python(STATE, snapshot.path).stdout == f"{(snapshot.revision, None)}\n"  # a node of a cluster may have no git


def test_submitters_at_once_make_one(checkout: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom slurm.snapshot import make_snapshot\n"
        "while time.time() < float(sys.argv[1]): pass\nprint(make_snapshot(Path(sys.argv[2])).digest)"
    )
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    for turn in range(3):
        folder = tmp_path / f"code{turn}"
        command = [sys.executable, "-c", code, str(time.time() + 0.5), str(folder)]
        children = [
            subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        outcomes = [child.communicate() for child in children]
        assert [error for _, error in outcomes] == [""] * 3
        assert len({digest for digest, _ in outcomes}) == 1
        assert [path.name for path in folder.iterdir()] == [outcomes[0][0][:12]]
