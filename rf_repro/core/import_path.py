"""Which code Python finds under our names.

`reports` and `slurm` are names that others use too: for a folder beside the user's notes, or for a distribution. A folder where
somebody types must not matter, and another distribution must be told, before hours of work and not after.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from rf_repro.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]  # a checkout, a snapshot, or where pip installed the packages
PACKAGES = ("rf_repro", "ablations", "evaluators", "slurm", "reports")
MARK = b'PART_OF = "rf_repro"'  # in each of the others' `__init__.py`
INSTALL = "python -m pip install --force-reinstall --no-deps rf_repro"
OR_APART = "or give rf_repro an environment of its own"


def put_first() -> None:
    """Makes our packages come before all others in this process; installed ones have the place that pip gave them."""
    if not _is_installed() and sys.path[:1] != [str(ROOT)]:
        sys.path.insert(0, str(ROOT))


def job_environment() -> dict[str, str]:
    """Variables of a process that is to find what this one does, in whatever folder it starts."""
    given = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]  # an empty one is the folder again
    return {
        "PYTHONSAFEPATH": "1",  # `python -m`, Submitit's way to start jobs, would put the folder first
        "PYTHONPATH": os.pathsep.join(given if _is_installed() else [str(ROOT), *given]),
    }


def _is_installed() -> bool:
    """Every Python of this environment finds us then. Put first, so full a folder would hide modules of Python itself."""
    return ROOT.name in ("site-packages", "dist-packages")


def check_packages() -> None:
    """Imports none of them.

    Raises:
        UserError: one of our names means something else here.
    """
    for name in PACKAGES[1:]:
        own = ROOT / name / "__init__.py"
        if not own.exists():
            raise UserError(f"{name}: {own} is missing; install rf_repro again ({INSTALL})")
        place = _place(name) or own
        overwritten = place.resolve() == own
        if overwritten and MARK in own.read_bytes():
            continue
        distribution = _distribution(name, place)
        owner = f" (of the distribution {distribution})" if distribution else ""
        uninstall = f"python -m pip uninstall {(distribution or name).split()[0]}"
        if overwritten:
            raise UserError(
                f"{name}: {place}{owner} was put in the place of rf_repro's own; {uninstall}, then {INSTALL}, {OR_APART}"
            )
        remedy = f"{uninstall}, {OR_APART}" if distribution else "rename it, or take its folder off Python's path (PYTHONPATH)"
        raise UserError(f"{name}: Python finds {place}{owner} before rf_repro's own package; {remedy}")


def _place(name: str) -> Path | None:
    """The file of a module or package, or the folder of a package without one."""
    spec = find_spec(name)
    if spec is None:
        return None
    return Path(spec.origin or next(iter(spec.submodule_search_locations or ())))


def _distribution(name: str, place: Path) -> str | None:
    """Name and version of the distribution, other than ours, that brought a file or folder; None where pip knows of none."""
    from importlib.metadata import distributions

    for one in distributions():
        files = [file for file in one.files or () if file.parts[0] in (name, f"{name}.py")]
        found = [Path(str(one.locate_file(file))).resolve() for file in files]
        if one.name.replace("-", "_") != PACKAGES[0] and any(place.resolve() in (file, *file.parents) for file in found):
            return f"{one.name} {one.version}"
    return None
