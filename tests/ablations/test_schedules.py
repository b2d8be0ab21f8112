"""With which stage the runs of a table end, what they are called, and that a table which goes on goes on from the other's run."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ablations.registry import ABLATIONS, get_grid, get_grids
from ablations.table1 import TABLE1
from ablations.variants import PIXEL_RF
from reports.collect import select
from rf_repro.cli import main
from rf_repro.config.prerequisites import prerequisites, run_name
from rf_repro.config.scales import SCALES, get_scale
from rf_repro.core.errors import UserError
from rf_repro.launch.plan import make_plan
from tests.own_grid import write_own_grid

LARGE = ["base", "paper"]


@pytest.mark.parametrize("scale", SCALES)
def test_ablations_end_with_joint_and_table_1_with_the_scales_last_stage(scale: str) -> None:
    for grid in ABLATIONS:
        assert {config.stages[-1].name for config in grid.configs(scale).values()} == {"joint"}
    (config,) = TABLE1.configs(scale).values()
    assert config.stages == get_scale(scale).stages


@pytest.mark.parametrize("scale", LARGE)
def test_table_1s_own_stage_is_table_3as_run(scale: str) -> None:
    config, row = TABLE1.configs(scale)["pixel_rf"], get_grid("table3a").configs(scale)["pixel_rf"]
    (own,) = [run for run in prerequisites(config, "pixel_rf") if run.is_own]
    assert own.config == row
    assert own.config.result_hash() == row.result_hash() != config.result_hash()
    assert (own.name, run_name("pixel_rf", row), run_name("pixel_rf", config)) == ("pixel_rf", "pixel_rf", "pixel_rf-continued")
    assert own.after == ("stage-alignment",)


@pytest.mark.parametrize("scale", ["tiny", "smoke", "small"])
def test_where_joint_is_the_last_stage_table_1_is_table_3as_run(scale: str) -> None:
    config, row = TABLE1.configs(scale)["pixel_rf"], get_grid("table3a").configs(scale)["pixel_rf"]
    assert config == row
    assert run_name("pixel_rf", config) == "pixel_rf"
    assert not [run for run in prerequisites(config, "pixel_rf") if run.is_own]


def test_every_stage_but_the_first_of_a_rows_own_adds_its_name() -> None:
    base = get_scale("base")
    longer = replace(base, stages=(*base.stages, replace(base.stages[-1], name="polished")))
    config = TABLE1.config(PIXEL_RF, longer)
    assert [run.name for run in prerequisites(config, "pixel_rf")] == ["stage-alignment", "pixel_rf", "pixel_rf-continued"]
    assert run_name("pixel_rf", config) == "pixel_rf-polished"


def test_a_scale_without_the_stage_keeps_all_of_its_own() -> None:
    grid = replace(get_grid("table3a"), last_stage="continued")
    assert grid.configs("tiny") == get_grid("table3a").configs("tiny")
    assert {config.stages[-1].name for config in grid.configs("base").values()} == {"continued"}


@pytest.mark.parametrize("name", ["jonit", "alignment", ""])  # one that variants share is none to end with
def test_the_name_of_no_stage_is_refused(name: str) -> None:
    grid = replace(get_grid("table3a"), last_stage=name)
    with pytest.raises(UserError) as refused:
        grid.configs("base")
    allowed = "must be one of joint, continued, or None for all stages"
    assert str(refused.value) == f"grid 'table3a': last_stage={name!r}: {allowed}"


def test_a_users_grid_says_so_too(tmp_path: Path) -> None:
    name = write_own_grid(tmp_path, ("    seeds=(0,),", '    seeds=(0,),\n    last_stage="jonit",'))
    with pytest.raises(UserError, match=r"^table '.*:TEXTS': grid 'texts': last_stage='jonit': must be one of joint"):
        get_grids([name], get_scale("base"))
    wrong = write_own_grid(tmp_path, ("    seeds=(0,),", "    seeds=(0,),\n    last_stage=3,"), name="wrong.py")
    with pytest.raises(UserError, match=r"texts: last_stage=3: must be text of one line or None$"):
        get_grids([wrong], get_scale("base"))


def test_a_row_of_the_users_may_go_on_and_is_not_called_like_another_run(tmp_path: Path) -> None:
    """Its Pixel at `base` is the paper's up to `joint`; a key that is the name of Table 1's run would be two runs of one name."""
    whole = write_own_grid(tmp_path, ("    seeds=(0,),", "    seeds=(0,),\n    last_stage=None,"))
    (grid,) = get_grids([whole], get_scale("base"))
    names = [run_name(key, config) for key, config in grid.configs("base").items()]
    assert names == ["pixel-continued", "heavier_text-continued"]
    taken = write_own_grid(tmp_path, ("heavier_text", "pixel_rf-continued"), name="taken.py")
    with pytest.raises(UserError, match="variant 'pixel_rf-continued': means one run in table1 and another in texts"):
        get_grids([taken], get_scale("base"))
    get_grids([taken], get_scale("tiny"))  # where Table 1's run has another name


@pytest.mark.parametrize("scale", ["base", "tiny"])
def test_a_row_that_is_its_twin_is_one_run_with_it(scale: str, tmp_path: Path) -> None:
    """VLM-only with the scale's own DINOv3 stands in Tables 2 and 3e; where encoders are made in-suite the two differ."""
    changes = {"data.sources": [{"name": "photos", "path": "/photos"}]} if scale == "base" else {}
    plan = make_plan(scale, ["table2", "table3e"], [0], tmp_path, changes)
    names = [job.variant for job in plan.jobs if job.kind == "variant"]
    assert ("vlm_dino" in names) == (scale == "tiny")
    only = make_plan(scale, ["table3e"], [0], tmp_path, changes, only=["vlm_dino"])
    assert only.jobs[-1].variant == ("vlm_only" if scale == "base" else "vlm_dino")
    assert only.jobs[-1].run.path in {job.run.path for job in plan.jobs}
    table = select(get_grid("table3e"), scale, [], changes)
    assert table.names["vlm_dino"] == only.jobs[-1].variant


def test_commands_show_the_run_that_a_table_trains(capsys: pytest.CaptureFixture[str]) -> None:
    for table, last in (("table3a", "joint"), ("table1", "continued")):
        assert main(["config", f"base:{table}/pixel_rf"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert [stage["name"] for stage in config["stages"]][-1] == last
        assert config["model"]["max_image_size"] == 1024  # the model is the same, whose weights go on


def test_table_1_alone_is_pixel_rf_alone_at_tiny(tmp_path: Path) -> None:
    alone, ablations = (make_plan("tiny", [table], None, tmp_path).jobs for table in ("table1", "table3a"))
    assert [job.name for job in alone] == ["stage-pretrain s0", "pixel_rf s0"]
    assert {job.run.path for job in alone} <= {job.run.path for job in ablations}
