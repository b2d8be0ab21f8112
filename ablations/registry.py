"""Every table this suite can run. Table 1 compares other groups' systems: it has claims and published values, no grid."""

from ablations.grid import AblationGrid
from ablations.table2 import TABLE2
from ablations.table3a import TABLE3A
from ablations.table3b import TABLE3B
from ablations.table3c import TABLE3C
from ablations.table3d import TABLE3D
from ablations.table3e import TABLE3E
from rf_repro.core.errors import UserError

_TABLES = (TABLE3A, TABLE3B, TABLE3C, TABLE3D, TABLE2, TABLE3E)
GRIDS: dict[str, AblationGrid] = {grid.name: grid for grid in _TABLES}


def get_grid(name: str) -> AblationGrid:
    """The grid of that name, e.g. `table3a`. Raises UserError when there is none."""
    if name not in GRIDS:
        raise UserError(f"table {name!r}: unknown; choose one of {', '.join(GRIDS)}")
    return GRIDS[name]
