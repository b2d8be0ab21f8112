"""The gates of the scenes evaluator: ground truth scores, prompts of other scenes and malformed shapes don't."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from evaluators.geneval.crops import object_crops
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.scoring import crop_colors, score_image
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.render import RGB, box_center, coverage, render
from rf_repro.data.scenes.world import SceneBatch, ScenesWorld
from rf_repro.worlds.scenes.colors import SceneColorClassifier
from rf_repro.worlds.scenes.detector import SceneDetector

TINY = ScenesConfig()
HARD = ScenesConfig(
    image_size=64, shapes=("circle", "square", "triangle", "cross", "star", "ring"), radius=9.0, radius_jitter=0.25,
    rotation=3.2, min_distance=26.0, background="textured", num_train=100,
    colors=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white"),
)  # fmt: skip
LARGE = replace(HARD, image_size=128, radius=18.0, min_distance=56.0, grid_step=4, background="graded")
STRICT = GenEvalOptions().counting_threshold


def benchmark(config: ScenesConfig, images_per_task: int) -> SceneBatch:
    """Ground truth of the benchmark prompts."""
    world = ScenesWorld(config)
    prompts = world.benchmark(images_per_task)
    return world.for_prompts([prompt.metadata for prompt in prompts for _ in range(prompt.num_samples)], seed=0)


@pytest.fixture(scope="module")
def tiny() -> SceneBatch:
    return benchmark(TINY, 100)


def task_scores(config: ScenesConfig, images: np.ndarray, metadata: list[dict[str, Any]]) -> dict[str, float]:
    """Share of correct images of each task by GenEval's rules."""
    classifier, verdicts = SceneColorClassifier(config), {}
    for image, fields, found in zip(images, metadata, SceneDetector(config).detect_arrays(images), strict=True):
        verdict = score_image(fields, found, crop_colors(Image.fromarray(image), classifier), GenEvalOptions())
        verdicts.setdefault(fields["tag"], []).append(verdict.correct)
    return {tag: float(np.mean(correct)) for tag, correct in verdicts.items()}


def overall(scores: dict[str, float]) -> float:
    assert len(scores) == 6
    return sum(scores.values()) / 6


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return np.rint(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))).astype(np.uint8)


def noisy(images: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("config", [TINY, HARD, LARGE], ids=["tiny", "hard", "large"])
def test_ground_truth_scores(config: ScenesConfig) -> None:
    batch = benchmark(config, 100 if config is TINY else 20)
    scores = task_scores(config, batch.images, batch.metadata)
    assert overall(scores) >= 0.98
    assert min(scores.values()) >= 0.95  # 0.97 is met at `tiny`; 20 images a task are 0.05 each
    assert config is not TINY or min(scores.values()) >= 0.97


def test_slight_noise_and_blur_hardly_matter(tiny: SceneBatch) -> None:
    for images in (noisy(tiny.images, 10), blurred(tiny.images, 0.5), noisy(blurred(tiny.images, 0.5), 10)):
        assert overall(task_scores(TINY, images, tiny.metadata)) >= 0.98


def test_heavy_blur_and_noise_matter(tiny: SceneBatch) -> None:
    """Not saturated: images that are visibly worse score visibly less."""
    for images in (noisy(tiny.images, 40), blurred(tiny.images, 1.5)):
        assert overall(task_scores(TINY, images, tiny.metadata)) < 0.75


def test_other_prompts_score_low(tiny: SceneBatch) -> None:
    order = np.random.default_rng(0).permutation(len(tiny.metadata))
    assert overall(task_scores(TINY, tiny.images, [tiny.metadata[i] for i in order])) < 0.15
    empty = np.full_like(tiny.images, 30)
    assert overall(task_scores(TINY, empty, tiny.metadata)) == 0


@pytest.mark.parametrize("config", [TINY, HARD, LARGE], ids=["tiny", "hard", "large"])
def test_every_object_is_found_where_it_is(config: ScenesConfig) -> None:
    batch = ScenesWorld(config).train(np.arange(60))
    for row, found in enumerate(SceneDetector(config).detect_arrays(batch.images)):
        present = [slot for slot in range(config.max_objects) if batch.shape[row, slot] >= 0]
        assert sum(map(len, found.values())) == len(present)
        for slot in present:
            detections = found[config.shapes[batch.shape[row, slot]]]
            assert (detections.scores > STRICT).all()
            middles = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
            distance = np.linalg.norm(middles - batch.center[row, slot], axis=1)
            assert distance.min() < (2.5 if config is LARGE else 1.0)  # detection works on half of LARGE's resolution
            mask = detections.masks[distance.argmin()]
            y, x = np.nonzero(mask)
            assert detections.boxes[distance.argmin()].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_are_the_covered_pixels() -> None:
    batch = ScenesWorld(TINY).train(np.arange(200))
    single = (batch.shape >= 0).sum(1) == 1
    found = SceneDetector(TINY).detect_arrays(batch.images[single])
    for row, detections in zip(np.flatnonzero(single), found, strict=True):
        name = TINY.shapes[batch.shape[row, 0]]
        centroid = batch.center[row, :1] - box_center(name, np.zeros(1, np.float32)) * TINY.radius
        exact = coverage(name, centroid, batch.radius[row, :1], None, TINY.image_size)[0]
        mask = detections[name].masks[0]
        assert mask[exact > 0.6].all()
        assert not mask[exact < 0.4].any()


def test_pillow_images_give_the_same_detections(tiny: SceneBatch) -> None:
    detector = SceneDetector(TINY)
    arrays = detector.detect_arrays(tiny.images[:20])
    pictures = detector.detect([Image.fromarray(image) for image in tiny.images[:20]])
    for one, other in zip(arrays, pictures, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name].boxes, other[name].boxes)
            np.testing.assert_array_equal(one[name].scores, other[name].scores)
    assert detector.detect([]) == []


def painted(alpha: np.ndarray) -> np.ndarray:
    """Red coverage float [N, S, S] on dark grey, uint8 [N, S, S, 3]."""
    alpha = alpha[..., None]
    return np.rint(255 * (0.15 * (1 - alpha) + alpha * np.array(RGB["red"]))).astype(np.uint8)


def drawn(shapes: np.ndarray, centers: np.ndarray) -> np.ndarray:
    alpha = np.zeros((len(shapes), 24, 24), np.float32)
    for index, name in enumerate(TINY.shapes):
        rows = shapes == index
        alpha[rows] = coverage(name, centers[rows].astype(np.float32), np.full(rows.sum(), 4.5, np.float32), None, 24)
    return alpha


def best_scores(images: np.ndarray) -> np.ndarray:
    """Highest confidence in each image, 0 where nothing is reported."""
    found = SceneDetector(TINY).detect_arrays(images)
    return np.array([max((float(item.scores.max()) for item in classes.values()), default=0.0) for classes in found])


RNG = np.random.default_rng(0)
KINDS = RNG.integers(0, 4, (400, 2))
TURN = RNG.uniform(0, 2 * np.pi, 400)
TOWARDS = np.stack([np.cos(TURN), np.sin(TURN)], 1)
MIDDLE = 12 + RNG.uniform(-0.5, 0.5, (400, 2))


def test_whole_shapes_at_any_subpixel_place_are_clean() -> None:
    assert (best_scores(painted(drawn(KINDS[:, 0], MIDDLE))) > STRICT).all()


def test_halves_are_not_recognised() -> None:
    pixels = np.arange(24) + 0.5
    offset = (pixels[None, None, :] - MIDDLE[:, 0, None, None]) * TOWARDS[:, 0, None, None]
    offset = offset + (pixels[None, :, None] - MIDDLE[:, 1, None, None]) * TOWARDS[:, 1, None, None]
    scores = best_scores(painted(drawn(KINDS[:, 0], MIDDLE) * np.clip(offset + 0.5, 0, 1)))
    assert (scores > 0.3).mean() < 0.02


def test_two_shapes_stuck_together_are_not_clean() -> None:
    apart = TOWARDS * RNG.uniform(4, 7, (400, 1)) / 2
    alpha = np.maximum(drawn(KINDS[:, 0], MIDDLE - apart), drawn(KINDS[:, 1], MIDDLE + apart))
    scores = best_scores(painted(alpha))
    assert (scores > STRICT).mean() < 0.05
    assert (scores > 0.3).mean() < 0.2


def test_smeared_shapes_are_not_clean() -> None:
    alpha = np.maximum.reduce([drawn(KINDS[:, 0], MIDDLE + TOWARDS * step) for step in (-2.5, -1.25, 0, 1.25, 2.5)])
    assert (best_scores(painted(alpha)) > STRICT).mean() < 0.1  # squares smeared along their diagonal stay squarish


def test_fragments_and_large_areas_are_not_reported() -> None:
    images = np.full((2, 24, 24, 3), 30, np.uint8)
    images[0, 4:7, 4:7] = images[0, 15:17, 3:20] = (230, 20, 20)
    images[1, :12] = (230, 20, 20)
    found = SceneDetector(TINY).detect_arrays(images)
    assert "square" not in found[0]
    assert found[1] == {}


@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.5, 3.0])
def test_any_image_gives_valid_detections(sigma: float) -> None:
    """Coloured noise, as an untrained model may give: boxes hold their masks and lie in the image."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(400, 24, 24, 3)), (0, sigma, sigma, 0))
    images = np.clip(60 + 90 * noise / noise.std(), 0, 255).astype(np.uint8)
    reported = 0
    for classes in SceneDetector(TINY).detect_arrays(images):
        for found in classes.values():
            reported += len(found)
            for box, score, mask in zip(found.boxes, found.scores, found.masks, strict=True):
                assert 0 <= box[0] < box[2] <= 24
                assert 0 <= box[1] < box[3] <= 24
                assert 0 < score <= 1
                assert mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])].sum() == mask.sum() > 0
    assert reported > 0 or sigma == 0


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="24 x 24"):
        SceneDetector(TINY).detect([Image.new("RGB", (24, 25))])


def test_revision_names_the_world() -> None:
    assert SceneDetector(TINY).revision == SceneDetector(ScenesConfig()).revision != SceneDetector(HARD).revision


@pytest.mark.parametrize("sigma", [0, 10])
def test_colours_of_detected_objects(sigma: float) -> None:
    """Every colour on every shape, through detection, mask and crop."""
    num_shapes, num_colors = len(HARD.shapes), len(HARD.colors)
    shape = np.full((num_shapes * num_colors, HARD.max_objects), -1)
    color = shape.copy()
    shape[:, 0], color[:, 0] = np.divmod(np.arange(len(shape)), num_colors)
    center, radius = np.full((*shape.shape, 2), 30.0, np.float32), np.full(shape.shape, 9.0, np.float32)
    draws = np.random.default_rng(0).random((len(shape), 6))
    images = noisy(render(HARD, shape, color, center, radius, None, draws), sigma)
    classifier = SceneColorClassifier(HARD)
    for row, found in enumerate(SceneDetector(HARD).detect_arrays(images)):
        name = HARD.shapes[shape[row, 0]]
        crops = object_crops(Image.fromarray(images[row]), found[name])
        assert classifier.classify(crops, [name]) == [HARD.colors[color[row, 0]]]


def test_a_crop_without_a_visible_pixel_is_refused() -> None:
    with pytest.raises(UserError, match="shows no pixel"):
        SceneColorClassifier(TINY).classify([Image.new("RGB", (5, 5), "#999")], ["circle"])
