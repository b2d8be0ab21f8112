"""The grids are exactly the diffs they declare, and the claims point at rows and columns that exist."""

import pytest

from ablations.claims import CLAIMS
from ablations.grid import Variant, config_difference
from ablations.registry import GRIDS, get_grid
from reports.paper_values import PAPER_TABLES
from rf_repro.config.scales import SCALES, get_scale
from rf_repro.core.errors import UserError


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_a_row_differs_from_the_base_in_its_declared_keys_and_nothing_else(grid, scale):
    configs = {key: config.to_dict() for key, config in grid.configs(scale).items()}
    base = grid.variant(grid.base)
    assert not config_difference(get_scale(scale).to_dict(), configs[grid.base]) or base.overrides
    for row in grid.rows:
        changed = {path: new for path, (_, new) in config_difference(configs[grid.base], configs[row.key]).items()}
        assert changed == {path: value for path, value in row.overrides.items() if base.overrides.get(path) != value}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_all_rows_start_from_one_run_of_each_shared_stage(grid):
    names = [name for name, _ in grid.shared("tiny")]
    assert names == ["stage-pretrain"]


def test_a_difference_is_named_by_stage_and_by_field():
    tiny = get_scale("tiny")
    other = Variant("x", "X", {"stages.joint.steps": 7, "data.scenes.shapes": ["circle", "star"]}).config(tiny)
    assert config_difference(tiny.to_dict(), other.to_dict()) == {
        "stages.joint.steps": (3000, 7),
        "data.scenes.shapes": (["circle", "square", "triangle", "cross"], ["circle", "star"]),
    }


def test_a_stage_on_one_side_only_shows_as_such():
    assert config_difference({"stages": [{"name": "a", "steps": 1}]}, {"stages": [{"name": "b", "steps": 2}]}) == {
        "stages.a.name": ("a", None),
        "stages.a.steps": (1, None),
        "stages.b.name": (None, "b"),
        "stages.b.steps": (None, 2),
    }


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match=r"table9.*table3a"):
        get_grid("table9")
    with pytest.raises(UserError, match=r"vae\d.*pixel, pixel_rf"):
        get_grid("table3a").variant("vae9")


def test_claims_name_rows_and_columns_of_their_table_and_the_papers_numbers():
    assert CLAIMS[0].id == "rf_beats_pixel"
    for claim in CLAIMS:
        grid, paper = get_grid(claim.table), PAPER_TABLES[claim.table]
        assert claim.column in {column.key for column in grid.columns}
        for key, published in ((claim.better, claim.paper_better), (claim.worse, claim.paper_worse)):
            assert grid.variant(key).label == paper.labels[key]
            assert paper.values[key][claim.column] == published
        assert claim.paper_difference > 0


def test_every_row_has_a_published_value_in_every_column():
    for grid in GRIDS.values():
        for row in grid.rows:
            assert set(PAPER_TABLES[grid.name].values[row.key]) == {column.key for column in grid.columns}
