"""From a scanned folder to a result by way of the cache: the same as scoring at once, however often it is interrupted."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluators.detection import Detections
from evaluators.geneval.cache import FLOOR, Cache, Evaluator, known_evaluators
from evaluators.geneval.detect import batches, detect_images
from evaluators.geneval.folder import Scan, scan
from evaluators.geneval.official_results import official_summary
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.sampled import evaluate_images
from evaluators.geneval.score import score_folder
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from tests.evaluators.drawn import PROMPTS, RED_COW_BLUE_DOG, TWO_COWS, PixelColor, RectangleDetector, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Scan:
    images = [RED_COW_BLUE_DOG.copy() if i % 2 == 0 else TWO_COWS.copy() for i in range(12)]
    for i, image in enumerate(images):
        image.putpixel((47, 31), (i + 1, 0, 0))  # twelve different files
    root = write_folder(tmp_path / "images", [images[2 * i : 2 * i + 2] for i in range(6)])
    return scan(root, num_prompts=6, images_per_prompt=2)


def cache_in(path: Path) -> Cache:
    return Cache(path, Evaluator.of(RectangleDetector()), Evaluator.of(PixelColor()))


def score(folder: Scan, cache: Cache, partial: bool = False, **options: Any) -> tuple[EvalResult, list[dict[str, Any]]]:
    return score_folder(folder, cache, GenEvalOptions(**options), prompt_set="custom", evaluator={}, partial=partial)


def detect(folder: Scan, cache: Cache, detector: Any = None, batch_size: int = 5, shard: tuple[int, int] = (0, 1)) -> None:
    detect_images(
        folder.images, folder.prompts, detector or RectangleDetector(), PixelColor(), cache, batch_size=batch_size, shard=shard
    )


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_by_way_of_the_cache_as_at_once(folder: Scan, tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "cache")
    detect(folder, cache)
    result, rows = score(folder, cache)
    images = [RED_COW_BLUE_DOG, TWO_COWS] * len(PROMPTS)
    metadata = [prompt for prompt in PROMPTS for _ in range(2)]
    at_once = evaluate_images(images, metadata, RectangleDetector(), PixelColor(), GenEvalOptions())
    assert [(row["correct"], row["reason"], row["failure"], row["details"]) for row in rows] == [
        (verdict.correct, verdict.reason, verdict.failure, verdict.details) for verdict in at_once
    ]
    assert (result.n, result.expected_n, result.failures, result.missing) == (12, 12, 0, {})
    assert rows[6]["colors"] == [["cow", "red", "red"]]
    assert result.evaluator["detector_revision"] == "r1"


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_leave_the_same_bytes(folder: Scan, tmp_path: Path, shards: int) -> None:
    whole, parts = cache_in(tmp_path / "whole"), cache_in(tmp_path / "parts")
    detect(folder, whole, batch_size=2)
    seen: list[int] = []
    for i in random.Random(shards).sample(range(shards), shards):
        detector = RectangleDetector()
        detect(folder, parts, detector, batch_size=2, shard=(i, shards))
        seen += detector.batches
    assert contents(whole.root) == contents(parts.root)
    assert score(folder, parts) == score(folder, whole)
    assert sum(seen) == 12


def test_what_is_cached_is_not_computed_again(folder: Scan, tmp_path: Path) -> None:
    cache, detector = cache_in(tmp_path / "cache"), RectangleDetector()
    detect(folder, cache, detector)
    detect(folder, cache, detector)
    assert detector.batches == [5, 5, 2]


def test_an_interrupted_batch_is_done_again_whole(folder: Scan, tmp_path: Path) -> None:
    """The detector dies on its second batch; images of the first are not looked at again, and the bytes are the same."""

    class Dies(RectangleDetector):
        def detect(self, images: Sequence[Image.Image]) -> list[dict[str, Detections]]:
            if self.batches:
                raise KeyboardInterrupt
            return super().detect(images)

    cache, whole = cache_in(tmp_path / "cache"), cache_in(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        detect(folder, cache, Dies())
    detect(folder, whole)
    torn = folder.images[7].sha256  # as if killed while the second batch was written
    cache.detections_path(torn).parent.mkdir(exist_ok=True)
    cache.detections_path(torn).write_bytes(whole.detections_path(torn).read_bytes())
    detector = RectangleDetector()
    detect(folder, cache, detector)
    assert detector.batches == [5, 2]
    assert contents(cache.root) == contents(whole.root)


def test_batches_hold_one_size_in_the_folders_order(tmp_path: Path) -> None:
    wide = Image.new("RGB", (60, 32))
    root = write_folder(tmp_path / "images", [[RED_COW_BLUE_DOG, wide], [wide, TWO_COWS], [TWO_COWS, wide]], PROMPTS[:3])
    found = scan(root, num_prompts=3, images_per_prompt=2)
    parts = [[(image.prompt_id, image.sample) for image in batch] for batch in batches(found.images, 2)]
    assert parts == [[(0, 0), (1, 1)], [(0, 1), (1, 0)], [(2, 0)], [(2, 1)]]


def test_other_rules_are_scored_without_a_model_or_images(folder: Scan, tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "cache")
    detect(folder, cache)
    for image in folder.images:
        image.path.unlink()
    strict, _ = score(folder, cache)
    blind, rows = score(folder, cache, threshold=0.96)
    assert strict.metrics["single_object"] == 1
    assert blind.metrics["single_object"] == 0
    assert blind.protocol != strict.protocol
    assert rows[0]["decisive"] == {"cow": float(np.float32(0.95))}


def test_missing_images_are_refused_or_marked(folder: Scan, tmp_path: Path) -> None:
    (folder.root / "00001" / "samples" / "0001.png").unlink()
    path = folder.root / "00002" / "samples" / "0000.png"
    path.write_bytes(path.read_bytes()[:60])
    short = scan(folder.root, num_prompts=6, images_per_prompt=2)
    cache = cache_in(tmp_path / "cache")
    detect(short, cache)
    with pytest.raises(UserError, match="10 of 12 images can be scored; complete it, or give partial=True"):
        score(short, cache)
    result, _ = score(short, cache, partial=True)
    assert (result.n, result.expected_n, result.failures) == (10, 12, 1)


def test_classes_the_detector_does_not_know_are_refused(tmp_path: Path) -> None:
    metadata = {"tag": "single_object", "prompt": "a mouse", "include": [{"class": "mouse", "count": 1}]}
    found = scan(write_folder(tmp_path / "images", [[TWO_COWS]], [metadata]), num_prompts=1, images_per_prompt=1)
    with pytest.raises(UserError, match="has no class 'mouse' among its 2"):
        detect(found, cache_in(tmp_path / "cache"))


def test_colors_that_nobody_looked_at_are_not_made_up(folder: Scan, tmp_path: Path) -> None:
    class Faint(RectangleDetector):
        def detect(self, images: Sequence[Image.Image]) -> list[dict[str, Detections]]:
            return [
                {name: Detections(objects.boxes, objects.scores * np.float32(0.04)) for name, objects in found.items()}
                for found in super().detect(images)
            ]

    cache = cache_in(tmp_path / "cache")
    detect(folder, cache, Faint())
    assert score(folder, cache)[0].metrics["overall"] == 0
    with pytest.raises(UserError, match=f"above {FLOOR}"):
        score(folder, cache, threshold=0.01)


def test_detections_survive_the_cache_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 50, (9, 4)).astype(np.float32)
    scores = np.array([0.9, 0.05, 0.3, 0.051, 0.5, 0.01, 0.2, 0.7, 0.6], np.float32)
    masks = rng.random((9, 37, 53)) > 0.7
    masks[2] = False
    found = {"cow": Detections(boxes[:6], scores[:6], masks[:6]), "dog": Detections(boxes[6:], scores[6:], masks[6:])}
    cache = cache_in(tmp_path)
    cache.write_detections("ab" * 32, found)
    back = cache.detections("ab" * 32, masks=True)
    assert list(back) == ["cow", "dog"]
    for name, objects in found.items():
        np.testing.assert_array_equal(back[name].boxes, objects.boxes)
        np.testing.assert_array_equal(back[name].scores, objects.scores)
        expected = objects.masks & (objects.scores > np.float32(FLOOR))[:, None, None]  # type: ignore[operator]
        np.testing.assert_array_equal(back[name].masks, expected)
    assert cache.detections("ab" * 32, masks=False)["cow"].masks is None
    cache.write_detections("cd" * 32, {})
    assert cache.detections("cd" * 32, masks=True) == {}
    cache.detections_path("cd" * 32).write_bytes(b"PK")
    with pytest.raises(UserError, match="damaged"):
        cache.detections("cd" * 32, masks=True)


def test_a_second_classifier_looks_at_the_same_detections(folder: Scan, tmp_path: Path) -> None:
    class Other(PixelColor):
        name = "other"

        def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
            return ["white"] * len(crops)

    cache, detector = cache_in(tmp_path / "cache"), RectangleDetector()
    detect(folder, cache, detector)
    other = Cache(cache.root, cache.detector, Evaluator.of(Other()))
    with pytest.raises(UserError, match="other has not seen this image yet"):
        score(folder, other)
    detect_images(folder.images, folder.prompts, detector, Other(), other, batch_size=5)
    assert detector.batches == [5, 5, 2]
    assert score(folder, other)[0].metrics["colors"] == 0
    assert score(folder, cache)[0].metrics["colors"] == 0.5
    assert known_evaluators(cache.root) == {cache.detector: sorted([cache.classifier, other.classifier], key=lambda e: e.key)}


SUMMARY = """\
Summary
=======
Total images: 12
Total prompts: 6
% correct images: 58.33%
% correct prompts: 100.00%

Task breakdown
==============
single_object    = 100.00% (2 / 2)
two_object       = 50.00% (1 / 2)
counting         = 50.00% (1 / 2)
colors           = 50.00% (1 / 2)
position         = 50.00% (1 / 2)
color_attr       = 50.00% (1 / 2)

Overall score (avg. over tasks): 0.58333"""


def test_the_official_summary(folder: Scan, tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "cache")
    detect(folder, cache)
    assert official_summary(score(folder, cache)[1]) == SUMMARY


def test_small_masks_lie_where_the_masks_lie(tmp_path: Path) -> None:
    masks = np.zeros((3, 40, 80), bool)
    masks[0, 10:30, 20:60] = True
    masks[1, :, :8] = True
    masks[2, 5:9, 5:9] = True
    boxes = np.zeros((3, 4), np.float32)
    cache = cache_in(tmp_path)
    cache.write_detections("ab" * 32, {"cow": Detections(boxes, np.array([0.5, 0.75, 0.03], np.float32), masks)})
    small = cache.small_masks("ab" * 32, {("cow", 0.5), ("cow", float(np.float32(0.03)))}, max_side=20)
    assert list(small) == [("cow", 0.5)]
    expected = np.zeros((10, 20), bool)
    expected[2:7, 5:15] = True  # 10 / 4 = 2.5 rounds to the even row 2
    np.testing.assert_array_equal(np.asarray(small["cow", 0.5]), expected)
