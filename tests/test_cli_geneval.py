"""`rf-repro evaluate geneval` on real image files with tiny models of random weights, from the scan to the page."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rf_repro.cli import main
from rf_repro.core.files import read_json, read_jsonl
from tests.killing import kill_at

pytest.importorskip("open_clip", reason="the extra `geneval` is not installed")
pytest.importorskip("transformers", reason="the extra `geneval` is not installed")

from tests.evaluators.tiny_geneval import (
    add_tiny_clip,
    save_tiny_clip,
    save_tiny_detector,
    small_models,
    write_noise,
    write_prompts,
)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    return write_noise(tmp_path_factory.mktemp("data") / "images", prompts, 2)


@pytest.fixture(scope="module")
def command(detector: Path, clip: Path, prompts: Path) -> Callable[[Path, Path], list[str]]:
    """What scores a folder of images into another."""
    return lambda folder, out: [
        "evaluate", "geneval", str(folder), "--out", str(out), "--weights", str(detector), "--clip", str(clip), "--device", "cpu",
        "--prompts", str(prompts), "--images-per-prompt", "2", "--batch-size", "3",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def evaluate(command: Callable[[Path, Path], list[str]], images: Path) -> Iterator[Callable[..., int]]:
    def run(out: Path, *rest: str, folder: Path = images) -> int:
        return main([*command(folder, out), *rest])

    with small_models():
        yield run


@pytest.fixture(scope="module")
def whole(evaluate: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert evaluate(out) == 0
    return out


@pytest.fixture
def scored(whole: Path, tmp_path: Path) -> Path:
    """A scored folder of this test's own."""
    shutil.copytree(whole, tmp_path / "scored", copy_function=shutil.copy2)
    return tmp_path / "scored"


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*") if path.is_file()}


def test_a_folder_is_scored_and_every_file_says_how(
    scored: Path, evaluate: Any, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(scored) == 0
    result = read_json(scored / "geneval.json")
    assert (result["n"], result["expected_n"], result["failures"]) == (12, 12, 0)
    assert result["evaluator"]["calibration"] == "not calibrated"
    assert "geneval-2023" in result["evaluator"]["color_classifier_revision"]
    assert " custom-" in result["protocol"]
    rows = read_jsonl(scored / "geneval.items.jsonl")
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(p, s) for p in range(6) for s in range(2)]
    assert any(row["details"] for row in rows)
    official = read_jsonl(scored / "results.jsonl")
    assert [line["filename"] for line in official] == [str(path) for path in sorted(images.glob("*/samples/*.png"))]
    assert [line["correct"] for line in official] == [row["correct"] for row in rows]
    page = (scored / "geneval.html").read_text()
    assert "a photo for color_attr" in page
    assert "iVBORw0KGgo" in page  # a mask: how every PNG begins, in base64
    printed = capsys.readouterr().out
    assert "Overall score (avg. over tasks):" in printed
    assert "12 of 12 images scored" in printed


def test_shards_and_a_second_run_give_the_same_bytes(scored: Path, evaluate: Any, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    for shard in ("3/3", "1/3", "2/3"):
        assert evaluate(parts, "--shard", shard) == 0
        assert not (parts / "geneval.json").exists()
    assert evaluate(parts) == 0
    same = {name: content for name, content in written(parts).items() if name != "geneval.html"}  # holds links relative to it
    assert same == {name: content for name, content in written(scored).items() if name != "geneval.html"}
    before = written(parts)
    assert evaluate(parts) == 0
    assert written(parts) == before


def evaluate_anew(clip: Path, command: list[str]) -> None:
    """In a process of its own."""
    add_tiny_clip(clip)
    with small_models():
        main(command)


def test_killed_at_any_time_it_resumes_to_the_same_bytes(
    scored: Path, evaluate: Any, command: Any, clip: Path, images: Path, tmp_path: Path
) -> None:
    """Killed in the midst of its first batch, which is then done anew, and of its second."""
    out = tmp_path / "killed"
    for times, kept in ((2, 1), (5, 4)):
        kill_at("*.npz", times, evaluate_anew, clip, command(images, out))
        assert len(list(out.rglob("[!.]*.npz"))) == kept
    assert evaluate(out) == 0
    expected = {name: content for name, content in written(scored).items() if name != "geneval.html"}
    assert {name: content for name, content in written(out).items() if name != "geneval.html"} == expected


def test_rescoring_needs_no_model(scored: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.geneval import run

    default = read_json(scored / "geneval.json")

    def no_model(*about: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(run, "load_detector", no_model)
    monkeypatch.setattr(run, "load_classifier", no_model)
    assert evaluate(scored, "--rescore") == 0
    assert read_json(scored / "geneval.json") == default
    assert evaluate(scored, "--rescore", "--option", "threshold=0.06", "--option", "counting_threshold=0.06") == 0
    easier = read_json(scored / "geneval.json")
    assert easier["protocol"] != default["protocol"]
    seen = [len(row["details"]) for row in read_jsonl(scored / "geneval.items.jsonl")]
    assert sum(seen) > 0
    assert evaluate(scored, "--rescore", "--profile", "unpinned-2025") == 2


def test_the_other_profile_looks_at_the_cached_detections(
    scored: Path, evaluate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (scored / "geneval-cache").rglob("*.npz")}
    assert evaluate(scored, "--profile", "unpinned-2025") == 0
    assert {path: path.stat().st_mtime_ns for path in (scored / "geneval-cache").rglob("*.npz")} == before
    assert "unpinned-2025" in read_json(scored / "geneval.json")["evaluator"]["color_classifier_revision"]
    assert evaluate(scored, "--batch-size", "4") == 2
    assert "was begun with --batch-size 3" in capsys.readouterr().err


def test_incomplete_folders_are_refused_or_marked(
    evaluate: Any, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "00002" / "samples" / "0001.png").write_bytes(b"no image")
    (folder / "readme.md").write_text("")
    out = tmp_path / "out"
    assert evaluate(out, folder=folder) == 2
    printed = capsys.readouterr()
    assert "11 of 12 images can be scored; complete the folder, or give --partial" in printed.err
    assert "2 problems (foreign file: 1, damaged image: 1)" in printed.out
    assert (out / "geneval-problems.txt").read_text().count("\n") == 2
    assert not (out / "geneval.json").exists()
    assert evaluate(out, "--partial", folder=folder) == 0
    result = read_json(out / "geneval.json")
    assert (result["n"], result["expected_n"], result["failures"]) == (11, 12, 1)
    assert "PARTIAL: 11 of 12" in capsys.readouterr().out
    shutil.copy(images / "00002" / "samples" / "0001.png", folder / "00002" / "samples" / "0001.png")
    assert evaluate(out, folder=folder) == 0
    assert (out / "geneval-problems.txt").read_text().startswith("foreign file: readme.md")
    (folder / "readme.md").unlink()
    assert evaluate(out, "--rescore", folder=folder) == 0
    assert not (out / "geneval-problems.txt").exists()


def test_a_reference_is_recorded_and_held_to(
    evaluate: Any, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "reference.json"
    assert evaluate(tmp_path, "--calibrate", str(reference)) == 0
    assert evaluate(tmp_path / "out", "--reference", str(reference)) == 0
    assert read_json(tmp_path / "out" / "geneval.json")["evaluator"]["calibration"] == "calibrated"
    other = read_json(reference)
    other["classifier"]["answers"] = [[value + 3 for value in row] for row in other["classifier"]["answers"]]
    reference.write_text(json.dumps(other))
    capsys.readouterr()
    assert evaluate(tmp_path / "other", "--reference", str(reference)) == 2
    printed = capsys.readouterr()
    assert "FAILED" in printed.out
    assert "self-check failed" in printed.err
    assert not (tmp_path / "other" / "geneval.json").exists()


def test_two_folders_are_compared(scored: Path, evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "compare", str(scored), str(scored)]) == 0
    assert "+0.000" in capsys.readouterr().out
    assert evaluate(tmp_path / "loose", "--option", "threshold=0.1") == 0
    capsys.readouterr()
    assert main(["evaluate", "compare", str(scored), str(tmp_path / "loose")]) == 2
    assert "another protocol" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b"])
def test_shards_that_are_none_are_refused(evaluate: Any, tmp_path: Path, shard: str) -> None:
    assert evaluate(tmp_path, "--shard", shard) == 2
