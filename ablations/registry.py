"""Every table this suite can run, and those in files of the user's. The one place where a table's name gets its meaning."""

from collections.abc import Iterable

from ablations.claims import CLAIMS, Claim
from ablations.grid import AblationGrid, Variant
from ablations.table1 import SYSTEMS, TABLE1
from ablations.table2 import TABLE2
from ablations.table3a import TABLE3A
from ablations.table3b import TABLE3B
from ablations.table3c import TABLE3C
from ablations.table3d import TABLE3D
from ablations.table3e import TABLE3E
from ablations.user_grids import is_of_file, load_claims, load_grid
from ablations.variants import lacks_siglip
from rf_repro.config.prerequisites import own_names
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError

ABLATIONS = (TABLE3A, TABLE3B, TABLE3C, TABLE3D, TABLE2, TABLE3E)  # variants under equal conditions (Secs. 4.3 and 4.4)
GRIDS: dict[str, AblationGrid] = {grid.name: grid for grid in (TABLE1, *ABLATIONS)}
ALL = "all"  # no grid's name: all of ours


def get_grid(name: str) -> AblationGrid:
    """The grid of that name: one of ours, e.g. `table3a`, or FILE.py:GRID, one in a file of the user's.

    Raises:
        UserError: there is none, or one of the user's is called like one of ours.
    """
    if name in GRIDS:
        return GRIDS[name]
    if not is_of_file(name):
        raise UserError(f"table {name!r}: unknown; choose one of {', '.join(GRIDS)}")
    grid = load_grid(name)
    if grid.name.lower() in (*GRIDS, ALL):
        raise UserError(f"table {name!r}: name={grid.name!r} is that of a table of the paper; give it one of its own")
    return grid


def row_config(name: str, row: Variant, base: ExperimentConfig) -> ExperimentConfig:
    """What a row of the table of that name is trained with. Raises UserError that names both."""
    grid = get_grid(name)
    try:
        return grid.config(row, base)
    except UserError as error:
        raise UserError(f"table {name!r}: {error}") from None


def get_grids(names: Iterable[str], base: ExperimentConfig) -> list[AblationGrid]:
    """The grids of several names, each once; `all` stands for all of ours.

    Args:
        base: the config that their rows are applied to.

    Raises:
        UserError: as of `get_grid` and `get_claims`; two grids of one name; a row of the user's that the base cannot have; or
            one whose key means another run or system elsewhere: runs of one name would be told apart by hash alone.
    """
    names = list(names)
    grids: dict[str, AblationGrid] = {}
    for name in names:
        for grid in GRIDS.values() if name == ALL else [get_grid(name)]:
            if grids.setdefault(grid.name.lower(), grid) != grid:
                raise UserError(f"table {name!r}: another table asked for is called {grid.name!r} too; rename one of them")
            for row in () if grid.name in GRIDS else grid.rows:
                if row.key.lower() in {system.key for system in SYSTEMS}:
                    raise UserError(f"variant {row.key!r}: is a system of {TABLE1.name}; give the row of {grid.name} another key")
                row_config(name, row, base)
    get_claims(names)
    known: dict[str, tuple[Variant, AblationGrid]] = {}  # by the name of a run
    for grid in (*ABLATIONS, TABLE1, *(grid for grid in grids.values() if grid.name not in GRIDS)):
        for row in grid.rows:
            for name in own_names(row.key, grid.schedule(base)):
                other, where = known.setdefault(name.lower(), (row, grid))  # some disks do not tell case apart
                if row.key != other.key or not _same_run(row, other, base):
                    raise UserError(
                        f"variant {row.key!r}: means one run in {where.name} and another in {grid.name}; give the row of "
                        f"{grid.name} a key of its own"
                    )
    return list(grids.values())


def left_out(base: ExperimentConfig) -> dict[str, str]:
    """Tables of ours that the base cannot have, by name, and why: a report shows the others."""
    why = lacks_siglip(base)
    return {TABLE3E.name: why} if why else {}


def reported_grids(names: Iterable[str], base: ExperimentConfig) -> list[AblationGrid]:
    """All of ours that the base can have, then those of the names that are not ours. Raises UserError as `get_grids`."""
    lacking = left_out(base)
    beside = (name for name in names if name not in (*GRIDS, "all"))
    return get_grids([*(name for name in GRIDS if name not in lacking), *beside], base)


def get_claims(names: Iterable[str]) -> tuple[Claim, ...]:
    """The claims about all of ours, and those that the files of the user's have about the grids named in them.

    Raises:
        UserError: as of `get_grid` and `load_claims`; or two claims of one id.
    """
    claims = {claim.id: claim for claim in CLAIMS}
    for name in dict.fromkeys(name for name in names if is_of_file(name)):
        get_grid(name)  # refuses one that is called like one of ours
        for claim in load_claims(name):
            if claims.setdefault(claim.id, claim) != claim:
                raise UserError(f"table {name!r}: claim {claim.id!r}: the id is another claim's; give it one of its own")
    return tuple(claims.values())


def _same_run(row: Variant, other: Variant, base: ExperimentConfig) -> bool:
    return row.overrides == other.overrides or row.config(base).result_hash() == other.config(base).result_hash()
