"""The detector through `transformers`: what it loads, what it refuses, and images in a batch that do not see each other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluators.detectors.coco import COCO_NAMES, OBJECT_NAMES
from evaluators.detectors.mask2former import Mask2FormerDetector, load
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from tests.evaluators.tiny_mask2former import agreement, photograph

transformers = pytest.importorskip("transformers", reason="needs the extra geneval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, stored by `transformers` itself."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], out_features=stages),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=10,
        id2label=dict(enumerate(COCO_NAMES)),
        label2id={name: index for index, name in enumerate(COCO_NAMES)},
        init_std=0.5,  # the usual 0.02 would make all queries alike
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mask2former")
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def detector(folder: Path) -> Mask2FormerDetector:
    return load(str(folder))


def copy_of(folder: Path, to: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_revision_names_the_libraries_and_the_weights(folder: Path, detector: Mask2FormerDetector) -> None:
    for part in (transformers.__version__, torch.__version__, file_sha256(folder / "model.safetensors")):
        assert part in detector.revision
    assert detector.class_names == OBJECT_NAMES


def test_an_image_gets_the_same_objects_alone_and_in_a_batch(detector: Mask2FormerDetector) -> None:
    """Up to float noise, which a threshold inside the network may amplify: an attention mask is where a logit is positive."""
    images = [photograph(130, 100, seed) for seed in (0, 1)]
    together = detector.detect(images)
    assert agreement(*together, score=0.01, pixels=0.01) < 0.5
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert agreement(alone, found, score=0.01, pixels=0.01) > 0.95
        assert all(objects.masks is not None and objects.masks.shape[1:] == (100, 130) for objects in found.values())


def test_weights_that_are_missing_or_misshapen_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = load_file(copy_of(folder, tmp_path) / "model.safetensors")
    name = "model.transformer_module.queries_features.weight"
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights do not fit .*missing: model.transformer_module.queries_features.weight"):
        load(str(tmp_path))
    save_file({**weights, name: torch.zeros(11, 32)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"of another shape: model.transformer_module.queries_features.weight"):
        load(str(tmp_path))


def test_a_model_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((copy_of(folder, tmp_path) / "config.json").read_text())
    swapped = {**config["id2label"], "0": "bicycle", "1": "person"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": swapped}))
    with pytest.raises(UserError, match="other places for bicycle, person: must be a model of COCO's 80 classes"):
        load(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    fewer = {key: value[:-1] if key.startswith(("class_predictor", "criterion")) else value for key, value in weights.items()}
    save_file(fewer, tmp_path / "model.safetensors", {"format": "pt"})
    names = {key: value for key, value in config["id2label"].items() if key != "79"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": names}))
    with pytest.raises(UserError, match="79 classes: must be"):
        load(str(tmp_path))


def test_what_is_no_model_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes(b"")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_bytes((folder / "config.json").read_bytes())
    cases = [
        (checkpoint, "converted by: python -m evaluators.detectors.openmmlab"),
        (tmp_path, "give a folder or a hub id"),
        (tmp_path / "half", "has no model.safetensors; give a folder or a hub id"),
        (tmp_path / "absent", "must be a folder that exists, or a hub id"),
    ]
    for path, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            load(str(path))
        assert "\n" not in str(caught.value)
