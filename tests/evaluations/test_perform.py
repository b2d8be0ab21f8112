"""Actions of an evaluation plan, carried out by tiny random models: in shares as in one, stopped and gone on with."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports.runs import load_runs
from reports.ship import ship_results
from rf_repro.config.overrides import config_of
from rf_repro.core.action_dir import ActionDir, ActionRecord, Share, ShareRecord, all_attempts
from rf_repro.core.errors import Stopped, UserError
from rf_repro.core.files import read_json
from rf_repro.core.records import Attempt
from rf_repro.core.run_dir import RunDir
from rf_repro.evaluations.actions import Evaluation, Scoring
from rf_repro.evaluations.check import check_evaluations
from rf_repro.evaluations.perform import Work, perform
from rf_repro.evaluations.plan import EvaluationPlan, load_plan
from rf_repro.evaluations.score import Scorer
from rf_repro.launch.plan import Job, make_plan
from rf_repro.launch.state import action_state
from tests.tiny_run import tiny_changes, write_run

pytest.importorskip("open_clip", reason="the extra `geneval` is not installed")
pytest.importorskip("transformers", reason="the extra `geneval` is not installed")

from tests.evaluators.dpg_world import csv_text, simple_rows
from tests.evaluators.geneval2_files import make_rows, write_rows
from tests.evaluators.tiny_geneval import save_tiny_clip, save_tiny_detector, small_models, write_prompts
from tests.evaluators.tiny_vlm import save_tiny_vlm
from tests.evaluators.understanding_files import MINIS, write_parquet

PLAN = """\
geneval: {{detector: transformers, weights: detector, clip: clip}}
dpg: {{judge: Tiny-VL}}
geneval2: {{judge: Tiny-VL}}
understanding: {{data: data}}
tables:
  table3a:
    - {{benchmark: geneval, prompts: prompts.jsonl, size: 64, num: 2}}
    - {{benchmark: dpg, prompts: questions.csv, size: 64}}
    - {{benchmark: geneval2, prompts: items.jsonl, size: 64}}
    - mmmu
{more}"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A plan and all that it names."""
    folder = tmp_path_factory.mktemp("evaluations")
    save_tiny_detector(folder / "detector")
    (folder / "clip").mkdir()
    save_tiny_clip(folder / "clip")
    save_tiny_vlm(folder / "Tiny-VL")
    write_prompts(folder / "prompts.jsonl")
    (folder / "questions.csv").write_text(csv_text(simple_rows(("partiprompts97", "256"))), encoding="utf-8")
    write_rows(folder / "items.jsonl", make_rows(2))
    write_parquet(folder / "data" / "mmmu" / "validation-00000-of-00001.parquet", MINIS["mmmu"])
    with small_models():
        yield folder


def plan_in(folder: Path, more: str = "") -> EvaluationPlan:
    path = folder / "evals.yaml"
    path.write_text(PLAN.format(more=more))
    return load_plan(str(path))


@pytest.fixture(scope="module")
def plan(world: Path) -> EvaluationPlan:
    return plan_in(world)


def changes_of(world: Path) -> dict[str, Any]:
    return tiny_changes(world / "tokenizer") | {"data.caption_tokens": 120, "sampling.batch_size": 4, "sampling.steps": 1}


def new_run(world: Path, runs: Path) -> RunDir:
    return write_run(runs, "pixel_rf", changes_of(world))


def evaluations(run: RunDir, plan: EvaluationPlan) -> dict[str, Evaluation]:
    return {one.name: one for one in plan.evaluations("table3a", config_of(run))}


def do(run: RunDir, action: Evaluation, share: Share = (0, 1), **more: Any) -> bool:
    return perform(Work(run, config_of(run), action, share, "cpu", 1, **more))


def do_all(run: RunDir, actions: Mapping[str, Evaluation], count: int) -> None:
    scorings = [one for one in actions.values() if isinstance(one, Scoring)]
    for action in actions.values():
        for index in reversed(range(count)):  # whoever ends last puts the parts together
            judged_by = [one for one in scorings if one.images == action]
            assert do(run, action, (index, count), judged_by=judged_by) == (index == 0)


@pytest.fixture(scope="module")
def whole(world: Path, plan: EvaluationPlan, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with every action done, each by one process."""
    run = new_run(world, tmp_path_factory.mktemp("whole"))
    do_all(run, evaluations(run, plan), 1)
    return run


def images_of(run: RunDir) -> dict[str, bytes]:
    return {str(path.relative_to(run.path)): path.read_bytes() for path in sorted(run.path.glob("images/**/*.png"))}


def test_every_action_leaves_its_results_and_a_record(whole: RunDir, plan: EvaluationPlan) -> None:
    actions = evaluations(whole, plan)
    assert list(actions) == [
        "sample-prompts-64", "geneval-prompts-64", "sample-questions-64", "dpg-questions-64", "sample-items-64",
        "geneval2-items-64", "mmmu",
    ]  # fmt: skip
    results = {}
    for name, action in actions.items():
        record = ActionDir.of(whole, name).record()
        assert record is not None
        assert record.digest == action.digest
        results[name] = record.results
    assert [len(found) for found in results.values()] == [0, 1, 0, 1, 0, 1, 1]
    assert whole.eval_names() == sorted(name for found in results.values() for name in found)
    assert {"geneval", "dpg-64-judge-tiny-vl", "understanding-mmmu"} <= set(whole.eval_names())
    for name in whole.eval_names():
        result = whole.eval_result(name)
        assert result is not None
        assert result.n > 0
        assert result.step == whole.record().steps
    assert len(images_of(whole)) == 6 * 2 + 2 * 4 + 2
    assert len(all_attempts(whole)) == len(whole.record().attempts) + 7
    assert all(one.error is None and one.seconds is not None for one in all_attempts(whole))


def test_shares_give_what_one_process_gives(world: Path, plan: EvaluationPlan, whole: RunDir, tmp_path: Path) -> None:
    run = new_run(world, tmp_path)
    do_all(run, evaluations(run, plan), 2)
    assert images_of(run) == images_of(whole)
    assert run.eval_names() == whole.eval_names()
    for name in run.eval_names():
        assert run.eval_items(name) == whole.eval_items(name)
        assert run.eval_result(name) == whole.eval_result(name)


def test_a_stopped_share_goes_on_where_it_was(world: Path, plan: EvaluationPlan, whole: RunDir, tmp_path: Path) -> None:
    run = new_run(world, tmp_path)
    action, asked = evaluations(run, plan)["sample-prompts-64"], [False, False, True]
    with pytest.raises(Stopped, match=r"^sample \d+/12: asked to stop"):
        do(run, action, stop=lambda: asked.pop(0))
    made = images_of(run)
    assert 0 < len(made) < 12
    record = ActionDir.of(run, action.name).share((0, 1)).record()
    assert record is not None
    assert not record.failed
    times = {path: path.stat().st_mtime_ns for path in run.path.glob("images/**/*.png")}
    assert do(run, action)
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())  # drawn once
    assert images_of(run) == {name: data for name, data in images_of(whole).items() if "prompts-64" in name}
    before = images_of(run)
    assert do(run, action)  # nothing is left to do
    assert images_of(run) == before


def test_nothing_is_done_before_its_turn_or_twice(world: Path, plan: EvaluationPlan, tmp_path: Path) -> None:
    run = new_run(world, tmp_path)
    actions = evaluations(run, plan)
    with pytest.raises(UserError, match="geneval-prompts-64 comes after sample-prompts-64, which is not done"):
        do(run, actions["geneval-prompts-64"])
    assert not ActionDir.of(run, "geneval-prompts-64").path.exists()
    run.write_record(replace(run.record(), status="planned", steps=1))
    with pytest.raises(UserError, match="sample-prompts-64 comes after train, which is not done"):
        do(run, actions["sample-prompts-64"])


def test_models_are_checked_before_images_are_drawn_for_them_and_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "reference.json").write_text('{"probes": "of other images"}')
    plan = plan_in(world)
    run = new_run(world, tmp_path)
    actions = evaluations(run, plan)
    bad = replace(actions["geneval-prompts-64"], settings=tuple(
        (key, str(world / "nowhere") if key == "weights" else value) for key, value in actions["geneval-prompts-64"].settings
    ))  # type: ignore[type-var]  # fmt: skip
    with pytest.raises(UserError, match="nowhere"):
        do(run, actions["sample-prompts-64"], judged_by=[bad])
    assert images_of(run) == {}
    record = ActionDir.of(run, "sample-prompts-64").share((0, 1)).record()
    assert record is not None
    assert record.failed
    good = actions["geneval-prompts-64"]
    assert do(run, actions["sample-prompts-64"], judged_by=[good])
    (marker,) = run.path.parents[1].glob(".checks/*/passed.json")
    assert read_json(marker)["settings"]["weights"] == str(world / "detector")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("geneval: {detector: transformers, weights: nowhere, clip: clip}", "nowhere"),
        ("geneval: {detector: transformers, weights: Tiny-VL, clip: clip}", "Tiny-VL"),
        ("geneval: {detector: transformers, weights: detector, clip: clip, reference: nowhere.json}", "reference='nowhere.json'"),
        ("dpg: {judge: clip}", "model="),
        ("dpg: {judge: mplug}", "needs an environment of its own"),
        ("dpg: {judge: mplug, python: /nowhere/python}", "cannot be started"),
        ("geneval2: {judge: 'openai:x'}", "must be openai:NAME@http://HOST:PORT/v1"),
        ("understanding: {data: detector}", "has neither a folder mmmu/"),
        ("tables: {table3a: [{benchmark: geneval, size: 64}]}", "no such prompt set; `rf-repro data fetch geneval"),
        ("tables: {table3a: [{benchmark: geneval, prompts: prompts.jsonl, size: 60}]}", "multiples of 16"),
    ],
)
def test_a_plan_is_checked_before_anything_is_trained(
    world: Path, plan: EvaluationPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = config_of(new_run(world, tmp_path / "runs"))
    check_evaluations([(config, plan.evaluations("table3a", config))])
    key = more.partition(":")[0]
    lines = PLAN.format(more="").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(key)] if key != "tables" else lines[:4]
    (world / "wrong.yaml").write_text("".join(kept) + more + "\n")
    wrong = load_plan(str(world / "wrong.yaml"))
    with pytest.raises(UserError, match=r"^evaluation plan, ") as caught:
        check_evaluations([(config, wrong.evaluations("table3a", config))])
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_prompts_longer_than_a_run_reads_are_refused(world: Path, plan: EvaluationPlan, tmp_path: Path) -> None:
    run = write_run(tmp_path, "pixel_rf", tiny_changes(world / "tokenizer") | {"data.caption_tokens": 5})
    with pytest.raises(UserError, match=r"evaluation plan, sample-prompts-64: .*caption_tokens=5"):
        check_evaluations([(config_of(run), plan.evaluations("table3a", config_of(run)))])


@pytest.mark.dist
def test_ranks_of_torchrun_share_out_what_is_drawn_and_asked(
    world: Path, whole: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is trained: its ranks go on with its evaluations, each with a share of every one."""
    monkeypatch.chdir(tmp_path)
    shards = tmp_path / "shards"
    shards.mkdir()
    sources = [{"name": task, "path": str(shards), "task": task} for task in ("generation", "understanding", "text")]
    changes = changes_of(world) | {"data.sources": sources, "data.scenes.image_size": 64}  # all is trained, and nobody reads them
    run = write_run(tmp_path / "runs", "pixel_rf", changes)
    for job in make_plan("base", ["table3a"], [0], tmp_path / "runs", changes, only=["pixel_rf"]).jobs:
        job.create(tmp_path / "runs")
        job.run.write_record(replace(job.run.record(), status="done"))
    text = "tables: {table3a: [{benchmark: geneval, prompts: prompts.jsonl, size: 64, num: 2}, mmmu]}\n"
    (world / "ranks.yaml").write_text("geneval: {detector: scenes}\nunderstanding: {data: data}\n" + text)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module", "rf_repro.cli",
        "train", "--scale", "base", "--variant", "pixel_rf", "--evaluations", str(world / "ranks.yaml"), "--device", "cpu",
        "--runs", "runs", *(word for path, value in changes.items() for word in ("--set", f"{path}={json.dumps(value)}")),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert images_of(run) == {name: data for name, data in images_of(whole).items() if "prompts-64" in name}
    for name in ("sample-prompts-64", "geneval-prompts-64", "mmmu"):
        shares = ActionDir.of(run, name).begun()
        assert [share.path.name for share in shares] == ["1-of-2", "2-of-2"]
    assert run.eval_items("understanding-mmmu") == whole.eval_items("understanding-mmmu")


def test_hours_of_evaluations_are_the_runs_in_reports(world: Path, whole: RunDir, tmp_path: Path) -> None:
    """Also in what is published of a run, where the folders of actions are left out."""
    (run,) = load_runs([whole.path])
    evaluated = [one for one in run.attempts if one not in run.record.attempts]
    assert {one.action for one in evaluated} == {path.name for path in whole.path.glob("actions/*")}
    (shipped,) = ship_results([whole.path.parents[2]], tmp_path / "shipped", "base", changes_of(world))
    published = RunDir(shipped).record().attempts
    assert [(one.action, one.seconds) for one in published] == [(one.action, one.seconds) for one in run.attempts]
    assert not (shipped / "actions").exists()


def test_other_settings_change_no_number_that_is_there(world: Path, whole: RunDir, plan: EvaluationPlan) -> None:
    """They are another action: its state is stale, and nothing does it again before what is there was moved away."""
    before = {path: path.read_bytes() for path in whole.path.rglob("*.json")}
    actions = evaluations(whole, plan)
    drawing, scoring = actions["sample-prompts-64"], actions["geneval-prompts-64"]
    other = (replace(drawing, seed=1), replace(scoring, settings=(("detector", "scenes"),)))  # type: ignore[call-arg]
    job = Job(whole, config_of(whole), "pixel_rf", 0, 0, evaluations=other)
    for one, away in zip(other, ("images/prompts-64 away", "actions/geneval-prompts-64 away"), strict=True):
        with pytest.raises(UserError, match=f"{one.name}: made by other settings; move .*{away} to have it made again"):
            do(whole, one)
        state = action_state(job, one.name, whole.record(), True, "")
        assert (state.state, away in state.reason) == ("stale", True)
    assert {path: path.read_bytes() for path in whole.path.rglob("*.json")} == before


def test_states_follow_the_files_of_shares(world: Path, plan: EvaluationPlan, tmp_path: Path) -> None:
    run = new_run(world, tmp_path)
    actions = evaluations(run, plan)
    drawing = actions["sample-prompts-64"]
    job = Job(run, config_of(run), "pixel_rf", 0, 0, evaluations=tuple(actions.values()))
    assert job.before(drawing.name) == ("train",)
    assert (job.kind_of("mmmu"), job.kind_of("train"), job.state) == ("answer", "train", "resumable")

    def states(is_next: bool = True, obstacle: str = "") -> list[str]:
        found = [action_state(job, drawing.name, run.record(), is_next, obstacle, (index, 2)) for index in range(2)]
        return [one.state for one in found]

    assert states() == ["missing", "missing"]
    assert states(False, "train failed") == ["blocked", "blocked"]
    folder = ActionDir.of(run, drawing.name)
    attempt = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, action=drawing.name)
    folder.share((0, 2)).write(ShareRecord(drawing.digest, attempts=[attempt]))
    assert states() == ["resumable", "missing"]  # killed before it could say
    folder.share((0, 2)).write(ShareRecord(drawing.digest, done=True, attempts=[replace(attempt, seconds=1.0)]))
    failed = replace(attempt, seconds=1.0, error="UserError: no room")
    folder.share((1, 2)).write(ShareRecord(drawing.digest, failed=True, attempts=[failed]))
    assert states() == ["done", "failed"]
    assert action_state(job, drawing.name, run.record(), True, "", (1, 2)).reason == "UserError: no room"
    assert job.state == "failed"
    folder.share((1, 2)).write(ShareRecord(drawing.digest, done=True, attempts=[failed]))
    assert states() == ["resumable", "resumable"]  # nobody has put the parts together
    folder.finish(ActionRecord(drawing.name, drawing.digest, {}, [], "2026-01-01T00:00:00+00:00"))
    assert states() == ["done", "done"]


def test_mplug_looks_from_an_environment_of_its_own(world: Path, whole: RunDir, tmp_path: Path) -> None:
    """Here without its libraries, as that environment's error says; the command line there has the images and the work."""
    scoring = evaluations(whole, plan_in(world))["dpg-questions-64"]
    assert isinstance(scoring, Scoring)
    mplug = replace(scoring, settings=(("judge", "mplug"), ("python", sys.executable)))
    scorer = Scorer(whole, config_of(whole), mplug, tmp_path / "work", "cpu", lambda what, done, total: None)
    with pytest.raises(UserError, match=r"evaluate dpg .*images/questions-64 --model mplug .*--shard 1/2.*: exit status 2"):
        scorer.share((0, 2))
