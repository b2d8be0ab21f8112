"""Every table this suite can run."""

from ablations.grid import AblationGrid
from ablations.table3a import TABLE3A
from rf_repro.core.errors import UserError

GRIDS: dict[str, AblationGrid] = {grid.name: grid for grid in (TABLE3A,)}


def get_grid(name: str) -> AblationGrid:
    """The grid of that name, e.g. `table3a`. Raises UserError when there is none."""
    if name not in GRIDS:
        raise UserError(f"table {name!r}: unknown; choose one of {', '.join(GRIDS)}")
    return GRIDS[name]
