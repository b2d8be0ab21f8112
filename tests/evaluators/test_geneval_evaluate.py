"""Whole folders: drawn images, a detector that reads them, and what becomes of damaged files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluators.geneval.official_results import write_official_results
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.sampled import evaluate_folder, evaluate_images
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_json
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from tests.evaluators.drawn import PROMPTS, RED_COW_BLUE_DOG, TWO_COWS, PixelColor, RectangleDetector

REASONS = [
    "",
    "expected dog>=1, found 0",
    "expected cow<2, found 2",
    "expected red cow>=1, found 0 red; and 1 ",  # green or blue: both have the same score
    "expected dog>=1, found 0\nno target for cow to be left of",
    "expected red cow>=1, found 0 red; and 1 ",
]
FAILURES = [None, "missing_object", "extra_object", "wrong_color", "missing_object", "wrong_color"]


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    folder = ImageFolder(tmp_path / "images")
    entries: list[SampleEntry] = []
    for prompt_id, metadata in enumerate(PROMPTS):
        folder.write_prompt(prompt_id, metadata)
        for sample, image in enumerate([RED_COW_BLUE_DOG, TWO_COWS]):
            entries.append(folder.write_image(prompt_id, sample, 100 * prompt_id + sample, image))
    folder.finish(entries, 2 * len(PROMPTS))
    return folder


def evaluate(folder: ImageFolder, **rest: Any) -> tuple[Any, list[dict[str, Any]]]:
    return evaluate_folder(folder, RectangleDetector(), PixelColor(), GenEvalOptions(), **rest)


def test_a_folder_is_scored_image_by_image(folder: ImageFolder) -> None:
    result, rows = evaluate(folder, benchmark="geneval-scenes", step=7, weights="ema")
    assert [row["correct"] for row in rows] == [True, True] + [True, False] * 5
    for prompt_id, (reason, failure) in enumerate(zip(REASONS, FAILURES, strict=True)):
        right, wrong = rows[2 * prompt_id : 2 * prompt_id + 2]
        assert (right["reason"], right["failure"]) == ("", None)
        assert wrong["reason"].startswith(reason)
        assert wrong["failure"] == failure
    score = float(np.float32(0.95))
    assert rows[8] == {
        "prompt_id": 4, "sample": 0, "seed": 400, "tag": "position", "prompt": "a cow left of a dog", "correct": True,
        "reason": "", "failure": None, "held_out": True,
        "details": {"cow": [[2, 10, 12, 16, score]], "dog": [[36, 10, 42, 20, score]]},
    }  # fmt: skip
    assert rows[0]["held_out"] is None
    assert (result.n, result.expected_n, result.failures, result.missing) == (12, 12, 0, {})
    assert result.metrics["overall"] == pytest.approx((1 + 5 * 0.5) / 6)
    assert (result.benchmark, result.step, result.weights) == ("geneval-scenes", 7, "ema")
    assert result.evaluator == {
        "detector": "rectangles", "detector_revision": "r1", "color_classifier": "pixel", "color_classifier_revision": "c1",
    }  # fmt: skip


def test_batches_do_not_change_the_result(folder: ImageFolder) -> None:
    whole = evaluate(folder)
    seen: list[tuple[int, int]] = []
    detector = RectangleDetector()
    parts = evaluate_folder(
        folder, detector, PixelColor(), GenEvalOptions(), batch_size=5, progress=lambda done, total: seen.append((done, total))
    )
    assert parts == whole
    assert detector.batches == [5, 5, 2]
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_images_in_memory_are_batched_and_turned_upright() -> None:
    """Stored on its side, the cow would measure 6 x 10: a dog."""
    sideways = RED_COW_BLUE_DOG.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[0x0112] = 6
    detector = RectangleDetector()
    images = [RED_COW_BLUE_DOG, sideways, RED_COW_BLUE_DOG]
    verdicts = evaluate_images(images, [PROMPTS[5]] * 3, detector, PixelColor(), GenEvalOptions(), batch_size=2)
    assert [verdict.correct for verdict in verdicts] == [True] * 3
    assert verdicts[1] == verdicts[0]
    assert detector.batches == [2, 1]
    with pytest.raises(ValueError, match="longer"):
        evaluate_images(images, [PROMPTS[5]] * 4, detector, PixelColor(), GenEvalOptions())


def test_unreadable_images_are_failures_and_in_no_mean(folder: ImageFolder) -> None:
    """One file gone, one replaced by another image, one that was never an image."""
    intact, _ = evaluate(folder)
    folder.image_path(1, 1).unlink()
    TWO_COWS.save(folder.image_path(2, 0))
    garbage = b"\x89PNG\r\n\x1a\n not an image"
    folder.image_path(3, 1).write_bytes(garbage)
    manifest = read_json(folder.manifest_path)
    manifest["samples"][7]["sha256"] = hashlib.sha256(garbage).hexdigest()
    write_json(folder.manifest_path, manifest)

    result, rows = evaluate(folder)
    assert (result.n, result.expected_n, result.failures) == (9, 12, 3)
    bad = {(row["prompt_id"], row["sample"]): row for row in rows if row["correct"] is None}
    assert set(bad) == {(1, 1), (2, 0), (3, 1)}
    assert {row["failure"] for row in bad.values()} == {"unreadable"}
    assert "no such file" in bad[1, 1]["reason"]
    assert "SHA-256 differs" in bad[2, 0]["reason"]
    assert "its image cannot be decoded" in bad[3, 1]["reason"]
    assert (result.metrics["two_object"], result.metrics["counting"], result.metrics["colors"]) == (1.0, 0.0, 1.0)
    assert result.protocol == intact.protocol  # it names what was asked for


def test_a_task_whose_images_are_all_lost_has_no_score(folder: ImageFolder) -> None:
    for sample in range(2):
        folder.image_path(4, sample).unlink()
    result, _ = evaluate(folder)
    assert result.metrics["position"] is None
    assert result.metrics["overall"] is None
    assert result.missing == {"position": "none of its 2 images could be read", "overall": "no score for position"}


def test_truncated_images_are_failures(folder: ImageFolder) -> None:
    path = folder.image_path(0, 0)
    data = path.read_bytes()[:-30]
    path.write_bytes(data)
    manifest = read_json(folder.manifest_path)
    manifest["samples"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    write_json(folder.manifest_path, manifest)
    _, rows = evaluate(folder)
    assert rows[0]["correct"] is None
    assert rows[0]["reason"].startswith("cannot read the image")


def test_unlisted_files_are_ignored(folder: ImageFolder) -> None:
    TWO_COWS.save(folder.image_path(1, 7))
    assert evaluate(folder)[0].n == 12


def test_impossible_metadata_is_refused_before_anything_is_scored(folder: ImageFolder) -> None:
    folder.write_prompt(5, {**PROMPTS[5], "include": [{"class": "cow", "count": 1, "color": "cyan"}]})
    detector = RectangleDetector()
    with pytest.raises(UserError, match=r"00005/metadata\.jsonl: include\[0\]: color is 'cyan'"):
        evaluate_folder(folder, detector, PixelColor(), GenEvalOptions())
    assert detector.batches == []


def test_images_of_a_prompt_without_metadata_are_refused(folder: ImageFolder) -> None:
    folder.path.joinpath("00005").rename(folder.path.parent / "gone")
    with pytest.raises(UserError, match=r"00005/metadata\.jsonl: no such file"):
        evaluate(folder)


def test_official_results_have_the_official_fields(folder: ImageFolder, tmp_path: Path) -> None:
    folder.image_path(0, 1).unlink()
    _, rows = evaluate(folder)
    write_official_results(tmp_path / "results.jsonl", rows, dict(folder.prompts()), folder.image_path)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 11  # the unreadable one has no verdict
    assert list(lines[8]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert lines[8]["filename"] == str(folder.image_path(4, 1))
    assert (lines[8]["tag"], lines[8]["correct"]) == ("position", False)
    assert json.loads(lines[8]["metadata"]) == PROMPTS[4]
    assert json.loads(lines[8]["details"]) == rows[9]["details"]
    assert lines[8]["reason"] == REASONS[4]
