"""From a trained run of scale `base` to the report, by the commands a user gives: sample, evaluate, report."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.grid import GENEVAL_TASKS
from reports.build import build_report
from reports.contact_sheet import read_sheets, show_images
from rf_repro.cli import main
from rf_repro.config.overrides import from_dict
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_json, write_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.worlds.scenes.detector import SceneDetector
from tests.reports.runs import make_items, make_result
from tests.tiny_run import STEP, tiny_changes, write_run

pytest.importorskip("open_clip", reason="the extra `geneval` is not installed")

from tests.test_cli_geneval import clip, detector, prompts, small_models  # noqa: F401

LARGEST = 288  # above 256, so that the tables' size and the largest are two
SIZES = (256, LARGEST)
OURS = ("pixel_rf", "pixel_rf-continued")  # the tables' run, and Table 1's, which goes on from it


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def changes(root: Path) -> dict[str, object]:
    """Large patches (the encoder's are the scale's own), so that images of 288 pixels are 81 tokens."""
    sizes = {"model.max_image_size": LARGEST, "stages.continued.max_image_size": LARGEST}
    changes = tiny_changes(root / "tokenizer") | {"model.pixel.patch_size": 32, **sizes}
    del changes["model.encoder.patch_size"], changes["stages.joint.max_image_size"]
    return changes


@pytest.fixture(scope="module")
def runs(root: Path, changes: dict[str, object]) -> dict[str, RunDir]:
    return {key: write_run(root / "runs", key, changes) for key in ("pixel", *OURS)}


@pytest.fixture(scope="module")
def score(detector: Path, clip: Path, prompts: Path) -> Iterator[Callable[..., int]]:  # noqa: F811
    def run(folder: Path, out: Path, *rest: str) -> int:
        return main(
            ["evaluate", "geneval", str(folder), "--out", str(out), "--weights", str(detector), "--clip", str(clip), "--device",
             "cpu", "--prompts", str(prompts), "--images-per-prompt", "1", *rest]
        )  # fmt: skip

    with small_models():
        yield run


@pytest.fixture(scope="module")
def scored(root: Path, runs: dict[str, RunDir], prompts: Path, score: Callable[..., int]) -> Path:  # noqa: F811
    """Folders of images of Pixel+RF in two sizes, of each of which a run has a score."""
    for size, key in zip(SIZES, OURS, strict=True):
        out = root / f"images-{size}"
        command = ["sample", str(runs[key].path), "--prompts", str(prompts), "--num", "1", "--size", str(size), "--out",
                   str(out), "--device", "cpu"]  # fmt: skip
        assert main(command) == 0
        assert score(out, root / f"score-{size}", "--run", str(runs[key].path)) == 0
    return root


def test_a_run_keeps_what_was_measured_of_it_and_how(scored: Path, runs: dict[str, RunDir]) -> None:
    assert runs["pixel"].eval_names() == []
    for key, name, size in zip(OURS, ("geneval", f"geneval-{LARGEST}"), SIZES, strict=True):
        assert runs[key].eval_names() == [name]
        result, beside = runs[key].eval_result(name), read_json(scored / f"score-{size}" / "geneval.json")
        assert result is not None
        assert result.protocol == f"{beside['protocol']}, {size}x{size} px"
        assert (result.metrics, result.evaluator, result.n) == (beside["metrics"], beside["evaluator"], 6)
        assert (result.step, result.weights) == (STEP, "ema")
        folder = ImageFolder(scored / f"images-{size}")
        items = runs[key].eval_items(name)
        assert [row["sha256"] for row in items] == [entry.sha256 for entry in folder.entries()]
        assert Image.open(folder.image_path(0, 0)).size == (size, size)
    sheet = read_sheets(runs["pixel_rf"], runs["pixel_rf"].eval_items("geneval"), GENEVAL_TASKS)["contact_sheet.png"]
    small = Image.open(scored / f"images-{SIZES[0]}" / "00003" / "samples" / "0000.png").resize(
        (128, 128), Image.Resampling.LANCZOS
    )
    assert np.array_equal(np.asarray(show_images(sheet)[3, 0]), np.asarray(small))


def test_the_report_of_scored_base_runs_is_built(
    scored: Path, runs: dict[str, RunDir], changes: dict[str, object], tmp_path: Path
) -> None:
    result = runs["pixel_rf"].eval_result("geneval")
    assert result is not None
    options = [text for path, value in changes.items() for text in ("--set", f"{path}={json.dumps(value)}")]
    command = ["report", "--runs", str(scored / "runs"), "--scale", "base", "--out", str(tmp_path / "report"), *options]
    assert main([*command, "--ship", str(tmp_path / "shipped")]) == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"Measured: {result.protocol}, by mask2former-transformers, colours by open_clip cli-clip." in page
    rows = first_rows(page, "Table 3a at scale base")
    assert rows["Pixel+RF"].startswith(f"| Pixel+RF | {result.metrics['overall']:.3f} [")
    assert "seed 0 not scored (" in rows["Pixel"]
    shipped = tmp_path / "shipped"
    assert main(["report", "--runs", str(shipped), *command[3 : -len(options)], *options]) == 0
    again = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for title in ("Table 1 at scale base", "Table 3a at scale base"):
        assert first_rows(again, title) == first_rows(page, title)
    assert main(command[: -len(options)]) == 0
    plain = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "not run: no pixel_rf run at scale base; 1 with another config left out" in plain


def test_measured_stands_beside_published_or_a_reason_does(changes: dict[str, object], tmp_path: Path) -> None:
    """Invented verdicts, whose means are known: 1 of 4 prompts right, 3 of 4, and 2 of 4 at the largest size."""
    how = {"evaluator": {"detector": "mask2former-mmdet", "detector_revision": "1", "color_classifier": "clip"}}
    for variant, name, right in (
        ("pixel", "geneval", 1),
        ("pixel_rf-continued", f"geneval-{LARGEST}", 2),
        ("pixel_rf", "geneval", 3),
    ):
        items = make_items(lambda task, index, sample, right=right: index < right)
        run = write_run(tmp_path / "runs", variant, changes)
        write_jsonl(run.evals / f"{name}.items.jsonl", items)
        run.write_eval(name, make_result(items, **how, items=f"{name}.items.jsonl"))
    page = build_report([tmp_path / "runs"], tmp_path / "out", "base", changes).with_suffix(".md").read_text(encoding="utf-8")
    assert "image-text data, up to" in page
    rows = first_rows(page, "Table 3a at scale base")
    for label, measured, paper in (("Pixel", "0.250", "0.25"), ("Pixel+RF", "0.750", "0.76")):
        assert rows[label].startswith(f"| {label} | {measured} [")
        assert f"| {paper} | 48 | 0 |" in rows[label]
    assert rows["VAE+RF"] == "| VAE+RF | not run: no vae_rf run at scale base | 0.77 | 0 | none |"
    systems = first_rows(page, "Table 1 at scale base")
    assert systems["RF-Pixel"].count("0.50 [") == 7
    assert systems["RF-Pixel†"].count("not run: seed 0 not scored (") == 7
    assert "rf-repro evaluate dpg --run" in systems["RF-Pixel"]
    assert systems["RF-Pixel†"].endswith("| – | – |")
    assert first_rows(page, "Table 2 at scale base")["Pixel+RF"].count("not run: seed 0 not asked (") == 8
    claims = {claim["id"]: claim for claim in read_json(tmp_path / "out" / "claims.json")}
    assert claims["rf_beats_pixel"]["verdict"] == "agrees with the paper (one seed)"
    assert claims["rf_beats_pixel"]["difference"] == pytest.approx(0.5)
    assert {claims[name]["verdict"] for name in ("rf_helps_vae", "dino_beats_siglip", "rf_beats_repa")} == {"not run"}

    result = run.eval_result("geneval")
    assert result is not None
    run.write_eval("geneval", replace(result, evaluator={**result.evaluator, "detector_revision": "2"}))
    with pytest.raises(UserError, match=r"would mix protocols .* by mask2former-mmdet, 1, clip in .* by mask2former-mmdet, 2"):
        build_report([tmp_path / "runs"], tmp_path / "out", "base", changes)


def first_rows(page: str, title: str) -> dict[str, str]:
    """First cell -> line, of the first table below a title."""
    rows: dict[str, str] = {}
    for line in page[page.index(f"### {title}") :].splitlines():
        if line.startswith("|"):
            rows[line.split("|")[1].strip()] = line
        elif rows:
            break
    return rows


def test_images_of_others_are_refused(
    scored: Path, runs: dict[str, RunDir], score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, record = scored / f"images-{SIZES[0]}", runs["pixel_rf"].evals / "geneval.json"
    before = record.read_bytes()

    def refused(folder: Path, key: str) -> str:
        capsys.readouterr()
        assert score(folder, scored / f"score-{SIZES[0]}", "--rescore", "--run", str(runs[key].path)) == 2
        return capsys.readouterr().err

    assert "holds images of base/pixel_rf/" in refused(images, "pixel")
    changed = tmp_path / "changed"
    shutil.copytree(images, changed)
    shutil.copy(images / "00001" / "samples" / "0000.png", changed / "00000" / "samples" / "0000.png")
    assert "0000.png: is not the image that the run made" in refused(changed, "pixel_rf")
    (changed / "manifest.json").unlink()
    assert "is not complete; run `rf-repro sample` again" in refused(changed, "pixel_rf")
    (changed / "origin.json").unlink()
    assert "has no origin.json" in refused(changed, "pixel_rf")
    shutil.copytree(images, tmp_path / "early")
    origin = read_json(images / "origin.json")
    write_json(tmp_path / "early" / "origin.json", {**origin, "step": STEP - 1})
    assert f"holds images of step {STEP - 1} of {STEP}; a run's record is of its end" in refused(tmp_path / "early", "pixel_rf")
    assert record.read_bytes() == before
    assert not (runs["pixel"].evals / "geneval.json").exists()
    assert score(images, scored / f"score-{SIZES[0]}", "--rescore", "--run", str(runs["pixel_rf"].path)) == 0
    assert record.read_bytes() == before


def test_scenes_that_a_base_model_draws_are_scored_by_the_exact_detector(
    root: Path, changes: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of scale `base` on shards of the scenes world, as the recipe is tried on a CPU."""
    run = write_run(tmp_path / "runs", "pixel_rf", changes | {"data.scenes.image_size": 64, "data.scenes.radius": 9.0,
                                                              "data.scenes.min_distance": 22.0})  # fmt: skip
    world = ScenesWorld(from_dict(run.config()).data.scenes)
    rows = [prompt.metadata for prompt in world.benchmark(2)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = tmp_path / "images"
    command = ["sample", str(run.path), "--prompts", str(tmp_path / "prompts.jsonl"), "--num", "1", "--size", "64", "--out",
               str(images), "--device", "cpu"]  # fmt: skip
    assert main(command) == 0
    assert main(["evaluate", "geneval", str(images), "--detector", "scenes", "--run", str(run.path)]) == 0
    assert "recorded in the run: " in capsys.readouterr().out
    assert run.eval_names() == ["geneval-64"]  # not the tables': those are of 256 px
    result = run.eval_result("geneval-64")
    assert result is not None
    assert (result.n, result.expected_n, result.step) == (len(rows), len(rows), STEP)
    assert result.evaluator["detector_revision"] == SceneDetector(world.config).revision
    assert main(["evaluate", "geneval", str(images), "--detector", "scenes", "--scale", "tiny"]) == 2


def test_sizes_shares_and_prompts_on_the_command_line(
    runs: dict[str, RunDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", str(runs["pixel"].path), "--prompt", "a dog", "--prompt", "a photo of two cats", "--num", "2",
               "--size", "64x96", "--batch-size", "1", "--device", "cpu", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*command, "--shard", "2/2"]) == 0
    assert "share 2/2 is in" in capsys.readouterr().out
    assert main([*command, "--shard", "1/2"]) == 0
    images = [np.asarray(Image.open(line)) for line in capsys.readouterr().out.splitlines()]
    assert [image.shape for image in images] == [(64, 96, 3)] * 4
    assert main(command) == 0
    for words, message in (
        (["--size", "64x"], "--size '64x': must be a side in pixels, or HxW"),
        (["--size", "320"], "at most 256, the largest of this run's training, which ends with stage joint"),
        (["--shard", "3/2"], "--shard '3/2': must be I/N"),
        (["--batch-size", "0"], "--batch-size 0: must be >= 1"),
        (["--seed", "1"], "is not empty, it holds images of seed 0, not 1"),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err
