"""Read-only copies of the code, named by their content: a queued job runs what was submitted, whatever happens to the tree.

A snapshot holds the packages and pyproject.toml as they were in the working tree, uncommitted changes included, beside

    snapshot.json   where they came from; `rf_repro.core.provenance` reads it, so records name the tree that was submitted
    dirty.diff      the uncommitted changes, where there were any
"""

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json
from rf_repro.core.hashing import content_hash
from rf_repro.core.import_path import PACKAGES
from rf_repro.core.provenance import (
    ROOT,
    SNAPSHOT,
    checkout_state,
    dirty_hash,
    is_tracked,
    library_versions,
    run_git,
)
from rf_repro.core.records import strict

LEFT_OUT = "reports/results"  # published runs: data, not code
SHOWN = 5  # file names in an error
SUBMODULE = "160000"  # git's mode


@dataclass(frozen=True)
class Made:
    """`snapshot.json`.

    Attributes:
        digest: SHA-256 of everything else here and of every file's path, executable bit and content.
        revision: of git; None for installed code.
        dirty: SHA-256 of dirty.diff; None for a clean tree.
    """

    digest: str
    revision: str | None
    dirty: str | None
    files: int
    version: str


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code in `path`; the rest as in `Made`."""

    path: Path
    digest: str
    revision: str | None
    dirty: str | None


@dataclass(frozen=True)
class _File:
    executable: bool
    content: bytes


def make_snapshot(folder: Path, root: Path = ROOT) -> Snapshot:
    """Copies the code to `folder/<first 12 digits of its digest>/`, or finds that copy there and checks it.

    Args:
        folder: of all snapshots, on a file system that jobs see.
        root: what holds the packages: a git checkout, of which tracked files are copied; a snapshot; or where pip
            installed them. The code that runs, by default.

    Raises:
        UserError: sources that git neither tracks nor ignores; links out of the tree; submodules; git refuses; `folder`
            cannot be written; or the copy there was changed.
    """
    root, folder = root.resolve(), folder.absolute()
    revision, diff = _state(root)
    files = _files(root, _tracked(root) if is_tracked(root) else _installed(root))
    dirty, version = dirty_hash(diff), library_versions().get("rf_repro", "not installed")
    made = Made(_digest(files, revision, dirty, version), revision, dirty, len(files), version)
    path = folder / made.digest[:12]
    if not path.exists():
        try:
            _write(path, files, made, diff)
        except OSError as error:
            raise UserError(f"{path}: cannot write ({error.strerror or error}); free space or choose another folder") from error
    verify(path)
    return Snapshot(path, made.digest, revision, dirty)


def verify(path: Path) -> None:
    """Reads a whole snapshot again.

    Raises:
        UserError: a file in it was changed, added or removed.
    """
    if (path / SNAPSHOT).exists():
        made = strict(Made, read_json(path / SNAPSHOT), str(path / SNAPSHOT))
        files, (_, diff) = _files(path, _installed(path)), _state(path)
        digest = _digest(files, made.revision, dirty_hash(diff), made.version)
        if digest == made.digest and path.name == digest[:12]:
            return
        problem = f"made of {made.files} files, holds {len(files)}, and their content is not what its name says"
    else:
        problem = f"no {SNAPSHOT} in it"
    raise UserError(
        f"{path}: this snapshot of the code is damaged ({problem}); delete the folder once no job runs from it and submit again"
    )


def assert_running_from(path: Path) -> None:
    """Checks that this process runs an undamaged snapshot and nothing beside it.

    Raises:
        UserError: one of our packages was, or would be, imported from elsewhere; or the snapshot was changed.
    """
    root = path.resolve()
    for name in [*PACKAGES, *(name for name in sys.modules if name.split(".")[0] in PACKAGES)]:
        for place in _places(name):
            if not Path(place).resolve().is_relative_to(root):
                raise UserError(
                    f"{name} comes from {place}, not from the snapshot {path} that was submitted; start Python with "
                    f"PYTHONPATH={path}"
                )
    verify(root)


def _places(name: str) -> Iterable[str]:
    """Where a module was imported from or, if it was not, would be: its file, or the folders of a package without one."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return [file] if file else getattr(module, "__path__", [])
    spec = find_spec(name)
    if spec is None:
        return []
    return [spec.origin] if spec.origin else spec.submodule_search_locations or []


def _state(root: Path) -> tuple[str | None, bytes]:
    """(revision, uncommitted diff) of the code in a folder, handed on by a snapshot; (None, b"") of installed code."""
    if (root / SNAPSHOT).exists():
        diff = root / "dirty.diff"
        return strict(
            Made, read_json(root / SNAPSHOT), str(root / SNAPSHOT)
        ).revision, diff.read_bytes() if diff.exists() else b""
    return checkout_state(root) if is_tracked(root) else (None, b"")


def _tracked(root: Path) -> list[str]:
    """The packages' files that git tracks and that exist.

    Raises:
        UserError: git knows nothing of some file, or one is a submodule.
    """
    wanted = ("--", *PACKAGES, "pyproject.toml", f":(exclude){LEFT_OUT}")
    strangers = _names(run_git(root, "ls-files", "-z", "--others", "--exclude-standard", *wanted))
    if strangers:
        raise UserError(
            f"{root}: git does not know {_some(strangers)}, so no record could name this code; `git add` what belongs to it, "
            "ignore the rest (.gitignore)"
        )
    staged = [entry.split("\t", 1) for entry in _names(run_git(root, "ls-files", "-z", "--stage", *wanted))]
    submodules = [name for mode, name in staged if mode.startswith(SUBMODULE)]
    if submodules:
        raise UserError(f"{root}: {_some(submodules)} is a git submodule, which a snapshot cannot hold; add its files instead")
    return sorted({name for _, name in staged if os.path.lexists(root / name)})


def _installed(root: Path) -> list[str]:
    """Every file of the packages, but what Python compiled."""
    found = ["pyproject.toml"] if (root / "pyproject.toml").exists() else []
    for package in PACKAGES:
        for folder, below, names in os.walk(root / package):
            place = Path(folder).relative_to(root)
            below[:] = [name for name in below if name != "__pycache__" and (place / name).as_posix() != LEFT_OUT]
            names += [name for name in below if (root / place / name).is_symlink()]  # which os.walk does not enter
            found += [(place / name).as_posix() for name in names]
    return sorted(found)


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _files(root: Path, names: list[str]) -> dict[str, _File]:
    """The files by name, each read once, so that what is hashed is what is written. Links inside become what they lead to."""
    if not any(name.startswith("rf_repro/") for name in names):
        raise UserError(f"{root}: holds no package rf_repro; name the folder that does")
    files = {}
    for name in names:
        path = root / name
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
            raise UserError(f"{path}: links to {os.readlink(path)}, not to a file of this tree; put a copy in its place")
        try:
            files[name] = _File(bool(path.stat().st_mode & stat.S_IXUSR), path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot read ({error.strerror or error}); mend or remove it") from None
    return files


def _digest(files: dict[str, _File], revision: str | None, dirty: str | None, version: str) -> str:
    """Of content and origin both: the same files after a commit are another snapshot, whose records name that commit."""
    listing = [[name, file.executable, hashlib.sha256(file.content).hexdigest()] for name, file in sorted(files.items())]
    return content_hash([listing, revision, dirty, version])


def _write(path: Path, files: dict[str, _File], made: Made, diff: bytes) -> None:
    """Writes all of it under another name, then renames. Of two that do so at once the first wins; they wrote the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        whole = temporary / path.name  # not the temporary folder itself, which only we may enter
        for name, file in files.items():
            _write_read_only(whole / name, file)
        if diff:
            _write_read_only(whole / "dirty.diff", _File(False, diff))
        _write_read_only(whole / SNAPSHOT, _File(False, (json.dumps(asdict(made), indent=1) + "\n").encode()))
        try:
            whole.rename(path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(temporary)


def _write_read_only(path: Path, file: _File) -> None:
    """Folders stay writable: Python keeps what it compiles there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    readable = stat.S_IMODE(path.stat().st_mode) & 0o444
    path.chmod(readable | (readable >> 2 if file.executable else 0))
