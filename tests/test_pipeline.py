"""From configuration to records at `smoke`: shared stages, resumption after SIGKILL, and runs that are done stay as they are."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ablations.registry import GRIDS
from rf_repro.config import prerequisites as prerequisites_module
from rf_repro.config.overrides import apply_overrides, from_dict
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.scales import smoke
from rf_repro.config.schema import EvalConfig
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError
from rf_repro.core.files import read_json
from rf_repro.core.run_dir import RunDir
from rf_repro.data.scenes.mixture import SceneMixture
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.experiment.load import last_checkpoint
from rf_repro.experiment.run import run_variant
from rf_repro.experiment.sampling import sample_prompts
from rf_repro.train.checkpoint import load_checkpoint
from rf_repro.train.encoder_pretraining import load_encoder
from rf_repro.worlds.scenes import probe
from tests.killing import kill_at
from tests.train.test_trainer import assert_same_run

PIXEL = smoke()
PIXEL_RF = apply_overrides(smoke(), {"representation.kind": "discrete"})


@pytest.fixture(scope="module")
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small atomic files wait for a disk, one by one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@contextmanager
def short_evaluations() -> Iterator[None]:
    """Of shared stages, which score 200 images a task whatever the variant does, and of codebooks, whose score nothing needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prerequisites_module, "EvalConfig", partial(EvalConfig, images_per_task=4))
        patch.setattr(probe, "STEPS", 20)
        yield


@pytest.fixture(scope="module")
def runs(fast: Path) -> Iterator[Path]:
    with short_evaluations():
        yield fast / "runs"


@pytest.fixture(scope="module")
def pixel_rf(runs: Path) -> RunDir:
    return run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=runs, device="cpu")


@pytest.fixture(scope="module")
def pixel(runs: Path, pixel_rf: RunDir) -> RunDir:
    return run_variant(PIXEL, variant="pixel", seed=0, runs=runs, device="cpu")


def mtimes(folder: Path) -> dict[Path, int]:
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a temporary file of a process that is watched
            found[path] = path.stat().st_mtime_ns
    return found


def test_a_run_directory_holds_what_it_promises(pixel_rf: RunDir, pixel: RunDir) -> None:
    on_the_way = {f"{name}-step{step:06d}" for name in ("geneval", "questions") for step in (15, 30)}
    common = {"geneval", "objects", "questions", *on_the_way}
    for run, config, evals in (
        (pixel_rf, PIXEL_RF, common | {"geneval-ground-truth-representation", "codebook-probe"}),
        (pixel, PIXEL, common),
    ):
        record = run.record()
        assert record.status == "done"
        assert (record.scale, record.seed, record.steps) == ("smoke", 0, 30)
        assert record.config_hash == from_dict(run.config()).result_hash() == config.result_hash()
        assert len(record.attempts) == 1
        assert record.attempts[0].error is None
        assert record.data_fingerprint
        rows = run.metrics()
        assert [row["step"] for row in rows] == [10, 20, 25, 30]
        assert record.tokens == rows[-1]["tokens"]
        assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["step-000020", "step-000030"]
        assert set(run.eval_names()) == evals
        result = run.eval_result("geneval")
        assert result is not None
        assert result.n == result.expected_n == len(run.eval_items("geneval")) == 24
        assert result.step == 30
        manifest = read_json(run.samples / "manifest.json")
        assert len(manifest["samples"]) == manifest["expected"] == 24
        weights = load_checkpoint(run.checkpoints / "step-000030").weights
        count = sum(t.numel() for name, t in weights.items() if not name.startswith(("vq.", "target_encoder.")))
        assert record.parameters["total"] == count


def test_variants_share_one_stage_one_start_and_every_batch(runs: Path, pixel_rf: RunDir, pixel: RunDir) -> None:
    (stage,) = RunDir.find(runs / "smoke" / "stage-pretrain")
    assert stage.record().status == "done"
    assert len(stage.record().attempts) == 1
    assert set(stage.eval_names()) == {"geneval-ground-truth", "geneval-mismatched"}
    name = f"stage-pretrain/{stage.path.name}"
    assert pixel_rf.record().started_from == pixel.record().started_from == [name]
    mixtures, stages = [], []
    for run in (pixel_rf, pixel):
        config = from_dict(run.config())
        mixtures.append(SceneMixture(config.data, SceneTokenizer(config.data.scenes)))
        stages.append(config.stage("joint"))
    for step in (1, 2, 30):
        first, second = (mixture.batch(own, 0, step) for mixture, own in zip(mixtures, stages, strict=True))
        for one, other in zip(first.generation + first.understanding, second.generation + second.understanding, strict=True):
            assert (one.images is None) == (other.images is None)
            assert one.images is None or torch.equal(one.images, other.images)
            assert torch.equal(one.text_ids, other.text_ids)
    other_step, other_seed = mixtures[0].batch(stages[0], 0, 3), mixtures[0].batch(stages[0], 1, 1)
    first = mixtures[0].batch(stages[0], 0, 1)
    assert not torch.equal(first.generation[0].images, other_step.generation[0].images)
    assert not torch.equal(first.generation[0].images, other_seed.generation[0].images)
    assert [row["tokens"] for row in pixel.metrics()] < [row["tokens"] for row in pixel_rf.metrics()]


def test_a_run_that_is_done_is_left_as_it_is(runs: Path, pixel_rf: RunDir, pixel: RunDir) -> None:
    before = mtimes(runs)
    for config, variant in ((PIXEL_RF, "pixel_rf"), (PIXEL, "pixel")):
        run_variant(config, variant=variant, seed=0, runs=runs, device="cpu")
    assert mtimes(runs) == before


def test_images_lost_while_sampling_are_made_again_bit_by_bit(runs: Path, pixel_rf: RunDir) -> None:
    """As if killed between two images: some are there, the manifest and the score are not."""
    manifest = read_json(pixel_rf.samples / "manifest.json")
    result = pixel_rf.eval_result("geneval")
    lost = sorted(pixel_rf.samples.rglob("*.png"))[5:12]
    for path in [*lost, pixel_rf.samples / "manifest.json", pixel_rf.evals / "geneval.json"]:
        path.unlink()
    pixel_rf.write_record(replace(pixel_rf.record(), status="running"))
    run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=runs, device="cpu")
    assert read_json(pixel_rf.samples / "manifest.json") == manifest
    assert pixel_rf.eval_result("geneval") == result


def run_pixel_rf(runs: Path) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    with short_evaluations():
        run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=runs, device="cpu")


MOMENTS = {  # the file that it is about to make, and for the how-manieth time
    "in the first checkpoint of the shared stage": ("*/stage-pretrain/*/checkpoints/*", 1),
    "before the second checkpoint": ("*/pixel_rf/*/metrics.jsonl", 2),
    "among the samples": ("*/samples/*.png", 9),
    "between two scores": ("*/pixel_rf/*/evals/geneval-*.json", 1),
}


@pytest.mark.slow
def test_killed_again_and_again_it_ends_where_it_would_have(fast: Path, pixel_rf: RunDir) -> None:
    """SIGKILL in the shared stage, in training, in sampling and in scoring; then to the end."""
    for pattern, times in MOMENTS.values():
        kill_at(pattern, times, run_pixel_rf, fast / "killed")
    run = RunDir(fast / "killed" / pixel_rf.path.relative_to(fast / "runs"))
    assert run.record().status != "done"
    run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=fast / "killed", device="cpu")
    assert run.record().status == "done"
    assert len(run.record().attempts) == len(MOMENTS)  # the first one was killed before
    assert_same_run(pixel_rf, run)
    assert set(run.eval_names()) == set(pixel_rf.eval_names())
    for name in pixel_rf.eval_names():
        assert run.eval_result(name) == pixel_rf.eval_result(name), name
    assert read_json(run.samples / "manifest.json") == read_json(pixel_rf.samples / "manifest.json")


def test_a_run_that_diverges_says_so_in_its_record(runs: Path, pixel_rf: RunDir) -> None:
    wild = apply_overrides(PIXEL, {"stages.joint.learning_rate": 1e30, "stages.joint.muon_learning_rate": 1e30})
    with pytest.raises(TrainingDiverged, match=r"step \d+: "):
        run_variant(wild, variant="wild", seed=0, runs=runs, device="cpu")
    (run,) = RunDir.find(runs / "smoke" / "wild")
    assert run.record().status == "failed"
    assert (run.record().attempts[-1].error or "").startswith("TrainingDiverged: step ")
    assert len(list((runs / "smoke" / "stage-pretrain").iterdir())) == 1  # it started from the same stage


def test_a_run_started_from_other_stages_is_refused(runs: Path, pixel: RunDir) -> None:
    run = RunDir.create(runs, PIXEL.to_dict(), PIXEL.result_hash(), "smoke", "pixel", 7)
    run.write_record(replace(run.record(), started_from=["stage-pretrain/000000000000-s0"]))
    with pytest.raises(UserError, match="started from stage-pretrain/000000000000-s0, not stage-pretrain/"):
        run_variant(PIXEL, variant="pixel", seed=7, runs=runs, device="cpu")


VARIANTS = {row.key: row for grid in GRIDS.values() for row in grid.rows}


@pytest.mark.slow
@pytest.mark.parametrize("key", VARIANTS)
def test_every_variant_of_every_table_is_trained_sampled_and_scored(key: str, runs: Path, fast: Path) -> None:
    config = VARIANTS[key].config(PIXEL)
    run = run_variant(config, variant=key, seed=0, runs=runs, device="cpu")
    space, kind = config.model.pixel.space, config.representation.kind
    expected = {"questions", "questions-step000015", "questions-step000030"}
    if space != "none":
        expected |= {"geneval", "objects", "geneval-step000015", "geneval-step000030"}
    if kind in ("discrete", "continuous"):
        expected.add("geneval-ground-truth-representation")
    if kind == "discrete":
        expected.add("codebook-probe")
    assert run.record().status == "done"
    assert set(run.eval_names()) == expected
    shared = {Path(name).parent.name: RunDir(runs / "smoke" / name) for name in run.record().started_from}
    assert list(shared) == [one.name for one in shared_runs(config)]
    gates = {
        "stage-vae": "geneval-vae-reconstruction",
        "stage-encoder": "encoder-probe",
        "stage-pretrain": "geneval-ground-truth",
    }
    for name, stage in shared.items():
        assert stage.record().status == "done"
        assert gates[name] in stage.eval_names()
    if space != "none":
        folder = sample_prompts(run, ["a photo of a red circle"], 1, fast / f"free-{key}", device="cpu")
        assert len(folder.entries()) == 1
    if "stage-encoder" in shared:  # the first stage did start from it
        start = load_encoder(last_checkpoint(shared["stage-encoder"]))
        trained = load_checkpoint(last_checkpoint(shared["stage-pretrain"])).ema
        cosine = {n: torch.cosine_similarity(t.flatten(), trained[f"encoder.{n}"].flatten(), 0) for n, t in start.items()}
        assert min(float(value) for name, value in cosine.items() if name.endswith("weight")) > 0.8


def test_a_later_stage_goes_on_with_weights_averages_codebook_and_target_encoder(runs: Path) -> None:
    """Its rate is nearly zero, so what it ends with is what it began with; codebook and averages would not be, had they begun
    anew."""
    joint = PIXEL_RF.stage("joint")
    still = replace(joint, name="continued", steps=2, learning_rate=1e-30, muon_learning_rate=1e-30, decay_fraction=0.0)
    frozen = replace(PIXEL_RF.optim, weight_decay=0.0, ema_decay=0.9999999)
    config = replace(PIXEL_RF, stages=(*PIXEL_RF.stages, still), optim=frozen, evals=replace(PIXEL_RF.evals, every=0))
    config = apply_overrides(config, {"representation.momentum": 0.9999999, "model.encoder.target_ema_decay": 0.9999999})
    run = run_variant(config, variant="two", seed=0, runs=runs, device="cpu", actions=["train"])
    before, after = run.record().started_from[-1], load_checkpoint(last_checkpoint(run))
    assert run.path.parent.name == run.record().variant == "two-continued"
    assert before.startswith("two/")
    joint_run = RunDir(run.path.parents[1] / before)
    earlier = load_checkpoint(last_checkpoint(joint_run))
    assert set(earlier.weights) == set(after.weights)
    assert {"vq.prototypes", "decoder.blocks.0.pools.pixel.down.weight"} <= set(after.weights)
    assert any(name.startswith("target_encoder.") for name in after.weights)
    for kind, old, new in (("weights", earlier.weights, after.weights), ("ema", earlier.ema, after.ema)):
        for name, tensor in old.items():
            if name not in ("vq.num_updates", "vq.mean"):  # the mean has a pace of its own
                torch.testing.assert_close(new[name], tensor, rtol=1e-4, atol=1e-5, msg=f"{kind} {name}")
    assert int(after.weights["vq.num_updates"]) == int(earlier.weights["vq.num_updates"]) + 2
    # It is the run of the row that ends there: trained alone, it is not done, and what is left of it is no training.
    assert (joint_run.record().status, joint_run.record().steps) == ("planned", joint.steps)
    row = replace(config, stages=config.stages[:-1])
    again = run_variant(row, variant="two", seed=0, runs=runs, device="cpu", actions=["train", "sample"])
    assert (again.path, [one.action for one in again.record().attempts]) == (joint_run.path, ["train", "sample"])
    assert (joint_run.samples / "manifest.json").exists()


def test_a_run_can_start_from_another_ones_averages(runs: Path, pixel_rf: RunDir) -> None:
    config = apply_overrides(PIXEL_RF, {"stages.joint.steps": 2, "stages.joint.learning_rate": 1e-30, "optim.ema_decay": 0.5,
                                        "stages.joint.muon_learning_rate": 1e-30, "evals.every": 0})  # fmt: skip
    options = {"variant": "again", "seed": 0, "runs": runs, "device": "cpu", "actions": ["train"]}
    run = run_variant(config, init_from=pixel_rf, **options)  # type: ignore[arg-type]
    assert run.record().started_from == [f"pixel_rf/{pixel_rf.path.name}"]
    source, own = load_checkpoint(last_checkpoint(pixel_rf)).ema, load_checkpoint(last_checkpoint(run)).weights
    assert all(torch.equal(own[name], tensor) for name, tensor in source.items())
    with pytest.raises(UserError, match=r"started from pixel_rf/.*, not stage-pretrain/"):
        run_variant(config, **{**options, "actions": ["sample"]})  # type: ignore[arg-type]


def test_free_prompts_are_sampled_the_same_way_every_time(fast: Path, pixel_rf: RunDir) -> None:
    prompts = [read_json(path)["prompt"] for path in sorted(pixel_rf.samples.rglob("metadata.jsonl"))[:2]]
    first = sample_prompts(pixel_rf, prompts, 2, fast / "first", seed=3, device="cpu")
    again = sample_prompts(pixel_rf, prompts, 2, fast / "again", seed=3, device="cpu")
    other = sample_prompts(pixel_rf, prompts, 2, fast / "other", seed=4, device="cpu")
    assert first.entries() == again.entries()
    assert len({entry.sha256 for entry in first.entries()}) == 4
    assert {entry.sha256 for entry in first.entries()}.isdisjoint(entry.sha256 for entry in other.entries())
    with pytest.raises(UserError, match="is not empty"):
        sample_prompts(pixel_rf, prompts, 1, fast / "first", device="cpu")
    with pytest.raises(UserError, match="unknown word 'zeppelin'"):
        sample_prompts(pixel_rf, ["a photo of a zeppelin"], 1, fast / "refused", device="cpu")
    assert not (fast / "refused").exists()


def test_one_action_at_a_time_ends_like_all_at_once(fast: Path, runs: Path, pixel_rf: RunDir) -> None:
    """As on a cluster, where each is a job of its own."""
    apart = fast / "apart"
    shutil.copytree(runs / "smoke" / "stage-pretrain", apart / "smoke" / "stage-pretrain")
    seen = []
    for action in ("train", "sample", "evaluate"):
        run = run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=apart, device="cpu", actions=[action])
        seen.append((run.record().status, [run.has_done(one, 30) for one in ("train", "sample", "evaluate")]))
        before = mtimes(apart)
        run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=apart, device="cpu", actions=[action])
        assert mtimes(apart) == before  # done is done
    assert seen == [
        ("planned", [True, False, False]),
        ("planned", [True, True, False]),
        ("done", [True, True, True]),
    ]
    assert [attempt.action for attempt in run.record().attempts] == ["train", "sample", "evaluate"]
    assert_same_run(pixel_rf, run)
    for name in pixel_rf.eval_names():
        assert run.eval_result(name) == pixel_rf.eval_result(name)
    assert read_json(run.samples / "manifest.json") == read_json(pixel_rf.samples / "manifest.json")


def test_sampling_before_training_is_refused(fast: Path, runs: Path, pixel_rf: RunDir) -> None:
    early = fast / "early"
    shutil.copytree(runs / "smoke" / "stage-pretrain", early / "smoke" / "stage-pretrain")
    with pytest.raises(UserError, match="trained 0 of 30 steps; train it to the end first"):
        run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=early, device="cpu", actions=["sample"])


def stop_after(questions: int) -> Callable[[], bool]:
    asked = iter(range(questions))
    return lambda: next(asked, None) is None


def test_stopped_wherever_it_asks_it_ends_where_it_would_have(fast: Path, pixel_rf: RunDir) -> None:
    """The first call stops at the first question, the next at the tenth, and on, through all that is done."""
    stopped = fast / "stopped"
    places = []
    for patience in range(1, 200, 9):
        try:
            run = run_variant(PIXEL_RF, variant="pixel_rf", seed=0, runs=stopped, device="cpu", stop=stop_after(patience))
            break
        except Stopped as reason:
            places.append(str(reason))
    assert run.record().status == "done"
    assert len(places) >= 4
    assert {attempt.error is None for attempt in run.record().attempts} == {True, False}
    assert_same_run(pixel_rf, run, metrics=False)
    for name in pixel_rf.eval_names():
        assert run.eval_result(name) == pixel_rf.eval_result(name), name
    assert read_json(run.samples / "manifest.json") == read_json(pixel_rf.samples / "manifest.json")
