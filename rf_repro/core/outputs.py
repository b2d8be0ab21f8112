"""What an action left in a run's folder, by name and SHA-256, and whether it is there still."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.core.reading import read_object

Outputs = Mapping[str, str]  # path below the run's folder -> SHA-256


def digests(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Of files below `root`, by their path below it."""
    return {path.relative_to(root).as_posix(): file_sha256(path) for path in sorted(paths)}


def absent(root: Path, outputs: Outputs) -> list[str]:
    """Those that are gone, and checkpoints of which a file is."""
    return [name for name in outputs if not _is_there(root / name)]


def changed(root: Path, outputs: Outputs) -> list[str]:
    """Those that are there and hold something else."""
    return [name for name, digest in outputs.items() if (root / name).is_file() and file_sha256(root / name) != digest]


def require_unchanged(root: Path, outputs: Outputs) -> None:
    """Raises UserError where one holds something else than what was written."""
    for name in changed(root, outputs):
        path = root / name
        what = (
            "this folder to go back to the checkpoint before it, or to the start"
            if _is_state(path)
            else "it to have it made again"
        )
        raise UserError(f"{path}: is not what was written (its SHA-256 differs); delete {what}")


def _is_there(path: Path) -> bool:
    return path.is_file() and (not _is_state(path) or _has_its_files(path))


def _is_state(path: Path) -> bool:
    """Whether it is what a checkpoint says of its files."""
    return path.name == "state.json"


def _has_its_files(state: Path) -> bool:
    """Whether each file has the size that it was written with. Whoever reads them compares their SHA-256."""
    try:
        files = read_object(state)["files"]
        return all((state.parent / name).stat().st_size == about["bytes"] for name, about in files.items())
    except (UserError, OSError, LookupError, TypeError, AttributeError):
        return False
