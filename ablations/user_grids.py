"""Grids of a user's own: `FILE.py:GRID`, a module-level `AblationGrid` of a Python file, and the file's `CLAIMS` about it."""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ablations.checks import explain
from ablations.claims import Claim
from ablations.grid import AblationGrid
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash

FORM = "FILE.py:GRID"


def is_of_file(name: str) -> bool:
    """Whether a table's name is of the form FILE.py:GRID."""
    return ":" in name or name.endswith(".py")


def file_of(name: str) -> Path:
    """The file of such a name. Raises UserError where it names none."""
    file, _ = _parts(name)
    if not file:
        raise UserError(f"names no file; must be {FORM}")
    try:
        return Path(file).expanduser()
    except RuntimeError as error:  # ~NAME of nobody
        raise UserError(f"{error}; write the folder out") from None


def in_file(name: str, path: Path) -> str:
    """The same grid's name, in another file."""
    return f"{path}:{_parts(name)[1]}"


def load_grid(name: str) -> AblationGrid:
    """The grid that FILE.py:GRID names. The file's code runs, once in a process.

    Raises:
        UserError: no such file, it does not run, or it has no such grid.
    """
    _, wanted = _parts(name)
    names = _load_for(name)
    there = {key: value for key, value in names.items() if isinstance(value, AblationGrid)}
    if wanted in there:
        return there[wanted]
    has = f"grids in it: {', '.join(there) or 'none'}"
    if not wanted:
        raise UserError(f"table {name!r}: must be {FORM}; {has}")
    if wanted in names:
        raise UserError(f"table {name!r}: is of type {type(names[wanted]).__name__}, must be an AblationGrid; {has}")
    raise UserError(f"table {name!r}: no such name in it; {has}")


def load_claims(name: str) -> tuple[Claim, ...]:
    """What `CLAIMS` of the file of FILE.py:GRID says about that grid; nothing where it says nothing.

    Raises:
        UserError: as of `load_grid`; it is no tuple of claims; or one names a table, a row or a column that is not there.
    """
    grid, names = load_grid(name), _load_for(name)
    claims = names.get("CLAIMS", ())
    if not isinstance(claims, tuple) or not all(isinstance(claim, Claim) for claim in claims):
        raise UserError(f"table {name!r}: CLAIMS must be a tuple of ablations.claims.Claim")
    tables = [value.name for value in names.values() if isinstance(value, AblationGrid)]
    for claim in claims:
        _check_known(f"table {name!r}: claim {claim.id!r}: table", [claim.table], tables)
    mine = tuple(claim for claim in claims if claim.table == grid.name)
    for claim in mine:
        where = f"table {name!r}: claim {claim.id!r}"
        _check_known(f"{where}: row", [*claim.rows, *(gate.row for gate in claim.gates)], [row.key for row in grid.rows])
        _check_known(f"{where}: column", claim.columns, [column.key for column in grid.columns])
        if grid.real_columns:
            _check_known(f"{where}: real column", claim.real_columns, [column.key for column in grid.real_columns])
    return mine


def _parts(name: str) -> tuple[str, str]:
    """`my_grid.py:GRID` -> (`my_grid.py`, `GRID`)."""
    file, colon, wanted = name.rpartition(":")
    return (file, wanted) if colon else (name, "")


def _load_for(name: str) -> dict[str, Any]:
    """What the file of FILE.py:GRID defines."""
    try:
        return _load(file_of(name).resolve())
    except UserError as error:
        raise UserError(f"table {name!r}: {error}") from None


@cache
def _load(path: Path) -> dict[str, Any]:
    """What a file defines, as a module that nothing else is called like; no compiled copy is left beside it."""
    try:
        source = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UserError(f"{reason}; name a grid of your own as {FORM}") from None
    spec = spec_from_file_location(f"rf_repro_grids_{content_hash(str(path))[:12]}", path)
    if spec is None:
        raise UserError(f"{path.name} is no Python file; name a grid of your own as {FORM}")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise UserError(f"{path.name}{explain(error, str(path))}") from None
    return vars(module)


def _check_known(what: str, found: Sequence[str], known: Sequence[str]) -> None:
    if strange := [one for one in found if one not in known]:
        raise UserError(f"{what} {strange[0]!r}: is not there; choose of {', '.join(known)}")
