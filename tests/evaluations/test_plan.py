"""The evaluation plan: the bundled one is the paper's; a user's is read strictly; names and digests tell actions apart."""

import pickle
from pathlib import Path

import pytest

from ablations.questions import NAMES
from ablations.registry import GRIDS
from ablations.variants import PIXEL_RF, VLM_ONLY
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.core.errors import UserError
from rf_repro.evaluations.actions import Drawing, Scoring
from rf_repro.evaluations.plan import EMPTY, EvaluationPlan, load_plan, plan_of


def plan_from(folder: Path, text: str) -> EvaluationPlan:
    (folder / "evals.yaml").write_text(text)
    return load_plan(str(folder / "evals.yaml"), ["mine"])


def names(plan: EvaluationPlan, table: str, scale: str = "base", variant: object = PIXEL_RF) -> list[str]:
    config = variant.config(get_scale(scale))  # type: ignore[attr-defined]
    return [one.name for one in plan.evaluations(table, config)]


@pytest.mark.parametrize("scale", ["base", "paper"])
def test_the_bundled_plan_is_the_papers(scale: str) -> None:
    """Sec. 4.2: official and rewritten prompts and DPG at 1,024 px; Sec. 4.3: eight benchmarks; Sec. 4.4: GenEval at 256 px."""
    plan = load_plan(None)
    for table in ("table3a", "table3b", "table3c", "table3d", "a_grid_of_ones_own"):
        assert names(plan, table, scale) == ["sample-official-256", "geneval-official-256"]
    assert names(plan, "table1", scale) == [
        "sample-official-1024", "geneval-official-1024", "sample-bagel-long-1024", "geneval-bagel-long-1024", "sample-dpg-1024",
        "dpg-1024",
    ]  # fmt: skip
    assert names(plan, "table2", scale) == list(NAMES)
    assert names(plan, "table3e", scale) == list(NAMES[:5])
    sets = {one.name: one for one in plan.evaluations("table1", get_scale(scale)) if isinstance(one, Drawing)}
    assert {name: (one.num, one.size) for name, one in sets.items()} == dict.fromkeys(sets, (4, 1024))
    assert set(GRIDS) <= {*plan.tables}


def test_what_a_run_cannot_do_is_not_asked_of_it() -> None:
    plan = load_plan(None)
    assert names(plan, "table3a", variant=VLM_ONLY) == []  # it draws nothing
    assert names(plan, "table2", variant=VLM_ONLY) == list(NAMES)
    assert names(plan, "table3a", "tiny") == []  # scenes score themselves
    sizes = {f"stages.{name}.max_image_size": 128 for name in ("alignment", "joint", "continued")}
    sizes |= {f"stages.{name}.min_image_size": 64 for name in ("joint", "continued")}
    small = apply_overrides(get_scale("base"), sizes)
    assert [one.name for one in plan.evaluations("table3a", small)] == ["sample-official-128", "geneval-official-128"]


def test_actions_pickle_and_come_after_what_they_need() -> None:
    evaluations = load_plan(None).evaluations("table1", get_scale("base"))
    assert pickle.loads(pickle.dumps(evaluations)) == evaluations
    seen = {"train"}
    for one in evaluations:
        assert set(one.after) <= seen
        seen.add(one.name)
    (question, *_) = load_plan(None).evaluations("table2", get_scale("base"))
    assert question.after == ("train",)
    assert question.kind == "answer"


def test_a_plan_travels_as_json() -> None:
    for plan in (load_plan(None), EMPTY):
        assert plan_of(plan.raw) == plan


def test_a_users_plan_replaces_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "mine.jsonl").write_text('{"tag": "single_object", "include": [], "prompt": "a photo of a bench"}\n')
    plan = plan_from(tmp_path, """\
geneval: {detector: mmdet, weights: weights}
tables:
  table3a: [{benchmark: geneval, prompts: mine.jsonl, size: 128, num: 2}, mmmu]
  mine: []
""")  # fmt: skip
    sampling, scoring, question = plan.evaluations("table3a", get_scale("base"))
    assert sampling == Drawing("geneval", str(tmp_path / "mine.jsonl"), 128, 2, 0)
    assert (sampling.name, scoring.name, question.name) == ("sample-mine-128", "geneval-mine-128", "mmmu")
    assert isinstance(scoring, Scoring)
    assert scoring.get("weights") == str(tmp_path / "weights")  # a path of the file's folder
    assert scoring.get("profile") == "geneval-2023"
    assert names(plan, "mine") == []
    assert names(plan, "table2") == list(NAMES)
    assert plan_of(plan.raw) == plan


def test_other_settings_are_another_action_of_the_same_name(tmp_path: Path) -> None:
    first = load_plan(None).evaluations("table3a", get_scale("base"))
    other = plan_from(tmp_path, "seed: 1\n").evaluations("table3a", get_scale("base"))
    looked = plan_from(tmp_path, "geneval: {profile: unpinned-2025}\n").evaluations("table3a", get_scale("base"))
    assert [one.name for one in first] == [one.name for one in other] == [one.name for one in looked]
    assert [one.digest for one in first] == [one.digest for one in load_plan(None).evaluations("table3a", get_scale("base"))]
    assert first[0].digest != other[0].digest
    assert first[0].digest == looked[0].digest  # the same images, looked at by other eyes
    assert first[1].digest != looked[1].digest


def test_other_systems_are_scored_where_folders_of_theirs_are_named(tmp_path: Path) -> None:
    (tmp_path / "bagel").mkdir()
    plan = plan_from(tmp_path, "systems: {bagel: {official: bagel, dpg: bagel}}\n")
    found = plan.of_system("bagel", "table1", get_scale("base"))
    assert [one.name for one in found] == ["geneval-official-1024", "dpg-1024"]
    assert [one.folder for one in found] == [str(tmp_path / "bagel")] * 2
    assert all(one.after == () for one in found)
    assert plan.of_system("janus_pro", "table1", get_scale("base")) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("genevals: {}", "unknown key 'genevals'; did you mean geneval"),
        ("geneval: {detector: yolo}", "geneval.detector='yolo': must be one of transformers, mmdet, scenes"),
        ("geneval: {detector: null}", "geneval.detector=None: must not be null"),
        ("dpg: {judge: ''}", "dpg.judge='': must not be empty"),
        ("understanding: {limit: 0}", "understanding.limit=0: must be an integer >= 1"),
        ("seed: -1", "seed=-1: must be an integer >= 0"),
        ("tables: {table4: []}", "unknown key 'table4'"),
        ("tables: {table2: mmmu}", "tables.table2='mmmu': must be a list"),
        ("tables: {table2: [mmlu]}", "tables.table2.0.benchmark='mmlu': must be one of geneval, dpg"),
        ("tables: {table2: [{size: 256}]}", "tables.table2.0: benchmark is missing"),
        ("tables: {table2: [{benchmark: mmmu, size: 256}]}", "tables.table2.0.size: mmmu asks the run itself"),
        ("tables: {table1: [{benchmark: geneval, size: 0.5}]}", "tables.table1.0.size=0.5: must be an integer >= 1"),
        (
            "tables: {table1: [{benchmark: geneval, prompts: nowhere.jsonl}]}",
            "prompts='nowhere.jsonl': no such file; name one",
        ),
        ("tables: {table1: [{benchmark: dpg, num: 3}]}", "tables.table1.0.num=3: must be 1 or 4"),
        ("tables: {table3a: [{benchmark: geneval, num: 2}]}", "sample-official-256 means other images than elsewhere"),
        ("systems: {sora: {}}", "systems: unknown key 'sora'"),
        ("systems: {bagel: {official: nowhere}}", "systems.bagel.official='nowhere': no such folder of images"),
        ("- a list", "must be a mapping"),
        ("a: [", "evals.yaml:"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_from(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert str(tmp_path / "evals.yaml") in message
    assert "\n" not in message


def test_a_plan_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; `rf-repro sweep evaluations > evals.yaml` prints one"):
        load_plan(str(tmp_path / "evals.yaml"))
