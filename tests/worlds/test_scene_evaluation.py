"""What a run of the scenes world is scored by beside GenEval: the true images' tokens, and images that collapse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import smoke
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.train.trainer import Trainer
from rf_repro.worlds.scenes.benchmark import SceneBenchmark
from rf_repro.worlds.scenes.evaluation import tokens_of, true_tokens
from tests.train.making import trainer_of

PIXEL_RF = apply_overrides(smoke(), {"representation.kind": "discrete"})


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    made = trainer_of(PIXEL_RF, PIXEL_RF.stage("joint"))
    made.begin()
    return made


def agreement(codes: Tensor) -> float:
    """Share of codes [N, R] that are the most frequent one of their place."""
    return float((codes == codes.mode(0).values).float().mean())


def test_images_that_are_alike_get_the_codes_they_share(trainer: Trainer) -> None:
    # Forty copies of one image, but for noise: assigned together they are spread over the codebook, as no batch of training is.
    image = ScenesWorld(PIXEL_RF.data.scenes).train(np.array([3])).images
    noise = np.random.default_rng(0).integers(0, 128, (40, *image.shape[1:]), dtype=np.uint8)
    copies = image // 2 + noise
    together, among_others = agreement(tokens_of(trainer, copies)), agreement(true_tokens(trainer, copies))
    assert among_others > together + 0.1


def test_in_a_batch_of_one_there_are_no_others(trainer: Trainer) -> None:
    alone = apply_overrides(PIXEL_RF, {"stages.joint.mixture.generation": 1})
    one = trainer_of(alone, alone.stage("joint"))
    one.begin()
    images = ScenesWorld(alone.data.scenes).train(np.arange(5)).images
    torch.testing.assert_close(true_tokens(one, images), tokens_of(one, images), rtol=0, atol=0)


def test_collapsed_images_are_counted(tmp_path: Path) -> None:
    benchmark = SceneBenchmark(PIXEL_RF)
    wanted = benchmark.wanted(4)
    images = benchmark.ground_truth(wanted).images
    for spoil, no_object, broken in ((np.copy, 0, 0), (np.zeros_like, 3, 0), (smeared, 0, 3)):
        run, folder = RunDir(tmp_path / f"run{no_object}{broken}"), ImageFolder(tmp_path / f"images{no_object}{broken}")
        some = images.copy()
        some[1:4] = spoil(some[1:4])  # one square, one triangle, one cross
        benchmark.write_images(wanted, some, folder)
        benchmark.score_objects(folder, run, 30)
        result = run.eval_result("objects")
        assert result is not None
        assert result.n == result.expected_n == len(wanted)
        assert result.metrics == {"no_object": no_object / len(wanted), "broken_object": broken / len(wanted)}


def smeared(images: np.ndarray) -> np.ndarray:
    """Each over itself, three pixels lower."""
    return np.maximum(images, np.roll(images, 3, axis=1))


def test_an_image_that_cannot_be_read_is_not_counted_as_collapsed(tmp_path: Path) -> None:
    benchmark = SceneBenchmark(PIXEL_RF)
    wanted, run, folder = benchmark.wanted(4), RunDir(tmp_path / "run"), ImageFolder(tmp_path / "images")
    benchmark.write_images(wanted, benchmark.ground_truth(wanted).images, folder)
    folder.image_path(wanted[0].prompt_id, wanted[0].sample).write_bytes(b"no image")
    benchmark.score_objects(folder, run, 30)
    result = run.eval_result("objects")
    assert result is not None
    assert (result.n, result.failures, result.metrics["no_object"]) == (len(wanted) - 1, 1, 0)
