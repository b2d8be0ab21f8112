"""The grids are exactly the diffs they declare, at every scale, and tables that share a row share its run."""

from dataclasses import replace

import pytest

from ablations.grid import CLUSTERS, Variant, config_difference
from ablations.questions import MIRRORS, QUESTIONS
from ablations.registry import ABLATIONS, GRIDS, get_grid, left_out, reported_grids
from reports.paper_values import PAPER_TABLES
from reports.results_tables import CLUSTERS as DESCRIBED
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import run_name
from rf_repro.config.scales import SCALES, get_scale
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.questions import QUESTION_TYPES
from rf_repro.launch.plan import make_plan
from rf_repro.model.encoders import encoder_of

grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
scales = pytest.mark.parametrize("scale", SCALES)


def test_the_tables_and_their_rows():
    assert {name: [row.key for row in grid.rows] for name, grid in GRIDS.items()} == {
        "table1": ["pixel_rf"],
        "table3a": ["pixel", "pixel_rf", "vae", "vae_rf"],
        "table3b": ["pixel", "repa", "pixel_rf"],
        "table3c": ["pixel", "continuous", "pixel_rf"],
        "table3d": ["pixel_rf_k_quarter", "pixel_rf_k_half", "pixel_rf", "pixel_rf_k_double", "pixel_rf_k_quadruple"],
        "table2": ["vlm_only", "vae", "vae_rf", "pixel", "pixel_rf"],
        "table3e": ["vlm_siglip", "vlm_dino"],
    }
    assert list(GRIDS) == ["table1", *(grid.name for grid in ABLATIONS)]


@scales
@grids
def test_a_row_differs_from_the_scale_and_from_the_base_in_its_declared_keys_and_nothing_else(grid, scale):
    base = grid.schedule(get_scale(scale))
    plain, configs = base.to_dict(), {key: config.to_dict() for key, config in grid.configs(scale).items()}
    declared = {row.key: dict(row.difference(base)) for row in grid.rows}
    for row in grid.rows:
        assert {path: new for path, (_, new) in config_difference(plain, configs[row.key]).items()} == declared[row.key]
        differing = config_difference(configs[grid.base], configs[row.key])
        ours, theirs = declared[row.key], declared[grid.base]
        assert set(differing) == {path for path in ours | theirs if ours.get(path) != theirs.get(path)}


@scales
def test_one_name_of_a_run_is_one_config_in_every_table(scale):
    found = {}
    for grid in GRIDS.values():
        for key, config in grid.configs(scale).items():
            assert found.setdefault(run_name(key, config), config) == config
    same = {frozenset(key for key in found if found[key] == config) for config in found.values()} - {
        frozenset([key]) for key in found
    }
    # the paper's DINOv3 row is its VLM-only row
    assert same == ({frozenset({"vlm_only", "vlm_dino"})} if scale in ("base", "paper") else set())


@pytest.mark.parametrize(
    ("scale", "sizes"),
    [("smoke", [8, 16, 32, 64, 128]), ("tiny", [128, 256, 512, 1024, 2048]), ("paper", [4096, 8192, 16_384, 32_768, 65_536])],
)
def test_codebook_sizes_follow_the_scale(scale, sizes):
    configs = get_grid("table3d").configs(scale)
    assert [config.representation.codebook_size for config in configs.values()] == sizes


def test_a_codebook_row_follows_an_override_of_the_scale_too():
    base = apply_overrides(get_scale("tiny"), {"representation.codebook_size": 1024})
    assert get_grid("table3d").variant("pixel_rf_k_double").config(base).representation.codebook_size == 2048


@scales
def test_a_vlm_generates_nothing_and_reads_as_many_questions(scale):
    for key in ("vlm_only", "vlm_siglip", "vlm_dino"):
        grid = get_grid("table2" if key == "vlm_only" else "table3e")
        config, base = grid.configs(scale)[key], grid.schedule(get_scale(scale))
        assert (config.model.pixel.space, config.representation.kind) == ("none", "none")
        for ours, theirs in zip(config.stages, base.stages, strict=True):
            assert ours.mixture.generation == 0
            assert (ours.mixture.understanding, ours.mixture.questions) == (
                theirs.mixture.understanding,
                theirs.mixture.questions,
            )


def test_encoders_are_pretrained_in_suite_or_downloaded():
    tiny, paper = (get_grid("table3e").configs(scale) for scale in ("tiny", "paper"))
    assert [config.model.encoder.pretraining.kind for config in tiny.values()] == ["siglip", "dino"]
    assert [config.model.encoder.kind for config in tiny.values()] == ["vit", "vit"]
    assert [config.model.encoder.pretraining.kind for config in paper.values()] == ["none", "none"]
    assert [config.model.encoder.kind for config in paper.values()] == ["siglip2", "dinov3"]
    assert paper["vlm_dino"].model.encoder == get_scale("paper").model.encoder


@pytest.mark.parametrize(
    ("layers", "width", "name", "size", "ratio"),
    [(12, 768, "base", (12, 768, 12, 3072), 1.0), (24, 1024, "so400m", (27, 1152, 16, 4304), 1.36),
     (32, 1280, "so400m", (27, 1152, 16, 4304), 0.49)],
)  # fmt: skip
def test_the_contrastive_encoder_is_of_the_other_ones_size_class(layers, width, name, size, ratio):
    """`ratio`: its parameters over those of the scale's DINOv3; SigLIP2 for images of any size comes in two sizes."""
    paper = get_scale("paper")
    sizes = {"num_layers": layers, "width": width, "num_heads": width // 64, "ffn_width": 4 * width, "pretrained": "plain-vit"}
    wanted = {} if layers == 32 else sizes  # the scale's own, whose feed-forward is gated
    base = apply_overrides(paper, {f"model.encoder.{key}": value for key, value in wanted.items()})
    encoders = [row.config(base).model.encoder for row in get_grid("table3e").rows]
    siglip, dino = encoders
    assert dino == base.model.encoder
    assert siglip.pretrained == f"google/siglip2-{name}-patch16-naflex"
    assert (siglip.num_layers, siglip.width, siglip.num_heads, siglip.ffn_width) == size
    assert siglip.patch_size == dino.patch_size == 16
    sizes = [encoder_of(encoder).size(encoder).total for encoder in encoders]
    assert sizes[0] / sizes[1] == pytest.approx(ratio, rel=0.01)


def test_an_encoder_without_a_partner_is_refused_in_one_line():
    small = {"model.encoder.width": 384, "model.encoder.num_heads": 6, "model.encoder.ffn_width": 1536}
    base = apply_overrides(get_scale("base"), small)
    with pytest.raises(UserError) as refused:
        get_grid("table3e").configs("base", small)
    message = str(refused.value)
    assert "model.encoder: has 12 layers of width 384: Table 3e has no SigLIP2 of that size class" in message
    assert "12 layers of width 768, 24 layers of width 1024, 32 layers of width 1280" in message
    assert message.endswith("or leave out table3e")
    assert "\n" not in message
    assert list(left_out(base)) == ["table3e"]
    assert left_out(base)["table3e"] in message
    assert all(left_out(get_scale(scale)) == {} for scale in SCALES)
    assert [grid.name for grid in reported_grids(["all", "table3e"], base)] == [name for name in GRIDS if name != "table3e"]
    assert [grid.name for grid in reported_grids(["table3b"], get_scale("base"))] == list(GRIDS)
    with pytest.raises(UserError, match="table 'table9': unknown"):
        reported_grids(["table9"], base)


def test_the_contrastive_encoder_can_be_named() -> None:
    """Another folder of the one of its size class, or one of another size; no other row is another run for that."""
    table3e, table3a = get_grid("table3e"), get_grid("table3a")
    plain = {**table3e.configs("base"), **table3a.configs("base")}
    there = {"model.encoder.contrastive.pretrained": "/weights/siglip2"}
    moved = {**table3e.configs("base", there), **table3a.configs("base", there)}
    found = moved["vlm_siglip"].model.encoder
    assert (found.pretrained, found.width, found.num_layers) == ("/weights/siglip2", 768, 12)
    assert {key for key in plain if plain[key].result_hash() != moved[key].result_hash()} == {"vlm_siglip"}
    tiny = {"model.encoder.width": 24, "model.encoder.num_layers": 2, "model.encoder.num_heads": 2, "model.encoder.ffn_width": 48}
    with pytest.raises(UserError, match=r"no SigLIP2 of that size class.*model\.encoder\.contrastive"):
        table3e.configs("base", tiny)
    own = {path.replace("encoder.", "encoder.contrastive."): value for path, value in tiny.items()}
    found = table3e.configs("base", {**tiny, **there, **own})["vlm_siglip"].model.encoder
    assert (found.kind, found.pretrained, found.width, found.num_layers) == ("siglip2", "/weights/siglip2", 24, 2)


def test_the_papers_vae_is_wans():
    vae = get_grid("table3a").configs("paper")["vae"].model.vae
    assert (vae.kind, vae.downsample, vae.latent_channels) == ("wan", 8, 16)


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("table3a", ["stage-pretrain", "stage-vae"]),
        ("table3b", ["stage-pretrain"]),
        ("table3c", ["stage-pretrain"]),
        ("table3d", ["stage-pretrain"]),
        ("table2", ["stage-pretrain", "stage-vae"]),
        ("table3e", ["stage-encoder", "stage-pretrain"] * 2),  # each encoder has its own, and a first stage after it
    ],
)
def test_all_rows_start_from_one_run_of_each_shared_stage(name, shared):
    assert [run for run, _ in get_grid(name).shared("tiny")] == shared
    first_stage = {key for grid in ("table2", "table3a", "table3d") for key in get_grid(grid).shared("tiny")}
    assert sum(run == "stage-pretrain" for run, _ in first_stage) == 1


def test_question_columns_are_the_suites_types_under_their_own_names_beside_the_papers_benchmarks():
    assert set(QUESTIONS) == set(QUESTION_TYPES)
    for kind, column in QUESTIONS.items():
        assert column.label == f"Scenes questions: {kind}"
        assert (column.tasks, column.metric, column.cluster) == ((kind,), kind, "question_id")
    for name in ("table2", "table3e"):
        columns = [column.key for column in get_grid(name).columns]
        assert [MIRRORS[key] for key in columns] == list(PAPER_TABLES[name].columns)


@pytest.mark.parametrize("grid", ABLATIONS, ids=[grid.name for grid in ABLATIONS])
def test_published_values_belong_to_rows_of_the_grid_and_are_whole(grid):
    paper, columns = PAPER_TABLES[grid.name], [column.key for column in grid.columns]
    assert set(paper.values) == set(paper.labels) <= {row.key for row in grid.rows}
    for row in paper.values:
        assert all(paper.value(row, column) is not None for column in columns)
    beyond = {row.key for row in grid.rows} - set(paper.values)
    assert beyond == ({"pixel_rf_k_quarter", "pixel_rf_k_half", "pixel_rf_k_quadruple"} if grid.name == "table3d" else set())
    assert all(paper.value(row, column) is None for row in beyond for column in columns)


def test_a_row_in_two_tables_has_one_published_value_each():
    for row, tables in {
        "pixel": ["table3a", "table3b", "table3c"],
        "pixel_rf": ["table3a", "table3b", "table3c", "table3d"],
    }.items():
        assert len({PAPER_TABLES[name].value(row, "geneval") for name in tables}) == 1
    for benchmark in PAPER_TABLES["table3e"].columns:  # the paper prints its VLM-only twice
        assert PAPER_TABLES["table3e"].values["vlm_dino"][benchmark] == PAPER_TABLES["table2"].values["vlm_only"][benchmark]


def test_table_1s_overall_score_is_the_mean_of_its_tasks():
    for row, values in PAPER_TABLES["table1"].values.items():
        tasks = [value for column, value in values.items() if column not in ("geneval", "dpg")]
        if tasks:
            assert sum(tasks) / 6 == pytest.approx(values["geneval"], abs=0.0101), row  # printed with two decimals


def test_a_difference_is_named_by_stage_and_by_field():
    tiny = get_scale("tiny")
    other = Variant("x", "X", {"stages.joint.steps": 7, "data.scenes.shapes": ["circle", "star"]}).config(tiny)
    assert config_difference(tiny.to_dict(), other.to_dict()) == {
        "stages.joint.steps": (tiny.stage("joint").steps, 7),
        "data.scenes.shapes": (["circle", "square", "triangle", "cross"], ["circle", "star"]),
    }


def test_a_stage_on_one_side_only_shows_as_such():
    assert config_difference({"stages": [{"name": "a", "steps": 1}]}, {"stages": [{"name": "b", "steps": 2}]}) == {
        "stages.a.name": ("a", None),
        "stages.a.steps": (1, None),
        "stages.b.name": (None, "b"),
        "stages.b.steps": (None, 2),
    }


def test_a_report_has_words_for_whatever_a_column_may_draw_by():
    assert set(CLUSTERS) == set(DESCRIBED)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match=r"table9.*table3a"):
        get_grid("table9")
    with pytest.raises(UserError, match=r"vae\d.*pixel, pixel_rf"):
        get_grid("table3a").variant("vae9")


@pytest.mark.parametrize("scale", ["smoke", "tiny"])
def test_a_shared_stage_may_be_called_otherwise(scale, tmp_path, monkeypatch):
    """Rows find it by what it does."""
    base = get_scale(scale)
    first, *others = base.stages
    renamed = replace(base, stages=(replace(first, name="foundation"), *others))
    monkeypatch.setitem(SCALES, scale, lambda: renamed)
    for grid in GRIDS.values():
        assert set(grid.configs(scale)) == {row.key for row in grid.rows}
    for config in get_grid("table3e").configs(scale).values():
        stage = config.stage("foundation")
        assert (stage.encoder_lr_multiplier, stage.mixture.masked_image) == (0.1, 0)
    plan = make_plan(scale, ["table3e"], [0], tmp_path)
    assert [job.variant for job in plan.jobs] == ["stage-encoder", "stage-foundation"] * 2 + ["vlm_siglip", "vlm_dino"]


def test_a_stage_that_spares_the_encoder_already_is_left_as_it_is():
    """An override that changes nothing is refused, and the sparing of a stage is none of Table 3e's when it is there already."""
    changes = {"stages.pretrain.encoder_lr_multiplier": 0.1, "stages.pretrain.mixture.masked_image": 0}
    for config in get_grid("table3e").configs("smoke", changes).values():
        assert (config.stages[0].encoder_lr_multiplier, config.stages[0].mixture.masked_image) == (0.1, 0)
