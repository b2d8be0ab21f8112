"""The self-check finds what goes wrong in real installations; tiny models with random weights stand for the large ones."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from evaluators.colors.clip import PROFILES, ClipColorClassifier, build, load
from evaluators.detection import Detections
from evaluators.detectors import pixels
from evaluators.detectors.mask2former import Mask2FormerDetector
from evaluators.geneval.metadata import COLORS
from evaluators.geneval.self_check import LOGIT_TOLERANCE, TOP, Check, calibrate, self_check
from evaluators.geneval.self_check_images import probe_crops, probe_images, probes_digest
from rf_repro.core.errors import UserError

open_clip = pytest.importorskip("open_clip", reason="the extra `geneval` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `geneval` is not installed")

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SHA256 = "ab" * 32


@pytest.fixture(scope="module", autouse=True)
def small_images() -> Iterator[None]:
    """The detector sees images at a quarter of GenEval's size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "SHORT_SIDE", 200)
        patch.setattr(pixels, "LONG_SIDE", 333)
        yield


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    (folder / "self-check-clip.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder / "self-check-clip.json")
    torch.manual_seed(0)
    model = build("self-check-clip", PROFILES["geneval-2023"])
    save_file(
        {name: value + 0.3 * torch.randn_like(value) for name, value in model.state_dict().items()}, folder / "clip.safetensors"
    )
    return str(folder / "clip.safetensors")


@pytest.fixture
def classifier(clip_weights: str) -> ClipColorClassifier:
    return load(clip_weights, architecture="self-check-clip")


@pytest.fixture(scope="module")
def mask2former() -> Any:
    backbone = transformers.SwinConfig(embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 4], window_size=7,
                                       out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, num_labels=80, num_queries=12, feature_size=32, mask_feature_size=32, hidden_dim=32,
        num_attention_heads=2, encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=16, dim_feedforward=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.class_predictor.parameters():
            parameter.add_(torch.randn_like(parameter))  # classes that differ between queries and images
    return model


@pytest.fixture
def detector(mask2former: Any) -> Mask2FormerDetector:
    return Mask2FormerDetector(copy.deepcopy(mask2former), f"tiny, weights sha256 {SHA256}", torch.device("cpu"))


@pytest.fixture(scope="module")
def reference(mask2former: Any, clip_weights: str) -> dict[str, Any]:
    detector = Mask2FormerDetector(copy.deepcopy(mask2former), f"tiny, weights sha256 {SHA256}", torch.device("cpu"))
    recorded = calibrate(detector, load(clip_weights, architecture="self-check-clip"))
    return json.loads(json.dumps(recorded, allow_nan=False))  # as a file gives it back


def failures(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.message for check in checks if not check.passed}


def test_good_models_pass_and_say_whether_they_are_calibrated(
    detector: Mask2FormerDetector, classifier: ClipColorClassifier, reference: dict[str, Any]
) -> None:
    alone = self_check(detector, classifier, None)
    assert not failures(alone)
    assert alone[-1].name == "calibration"
    assert alone[-1].message.startswith("not calibrated: ")
    assert {check.name: check.message for check in alone}["detector weights"].startswith("unknown: ")
    compared = self_check(detector, classifier, reference)
    assert not failures(compared)
    assert not any("not calibrated" in check.message for check in compared)
    names = [check.name for check in compared]
    assert names[-2:] == ["detections as recorded", "CLIP logits as recorded"]
    assert len(set(names)) == len(names)
    assert [len(objects) for objects in reference["detector"]["answers"]] == [TOP, TOP]
    assert np.shape(reference["classifier"]["answers"]) == (len(COLORS), len(COLORS))


def test_another_profile_fails_before_any_number_is_compared(
    detector: Mask2FormerDetector, clip_weights: str, reference: dict[str, Any]
) -> None:
    other = load(clip_weights, profile="unpinned-2025", architecture="self-check-clip")
    message = failures(self_check(detector, other, reference))["calibration"]
    assert message.startswith(
        "the reference is of profile geneval-2023, this is unpinned-2025; give the reference of these models, or"
    )


def test_an_activation_swapped_behind_the_profile_fails_twice(
    detector: Mask2FormerDetector, classifier: ClipColorClassifier, reference: dict[str, Any]
) -> None:
    for module in list(classifier._model.modules()):
        if hasattr(module, "gelu"):
            module.gelu = torch.nn.GELU()
    found = failures(self_check(detector, classifier, reference))
    assert found["CLIP activation"].startswith("profile geneval-2023 needs QuickGELU, the model computes GELU; install")
    assert f"at most {LOGIT_TOLERANCE} is float noise" in found["CLIP logits as recorded"]
    assert set(found) == {"CLIP activation", "CLIP logits as recorded"}


def test_dead_and_broken_kernels_of_the_detector_fail(
    detector: Mask2FormerDetector, classifier: ClipColorClassifier, reference: dict[str, Any]
) -> None:
    def no_kernel(*arguments: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")

    handle = detector._model.register_forward_pre_hook(no_kernel)
    found = failures(self_check(detector, classifier, reference))
    assert found["detector runs"].startswith(
        "RuntimeError: CUDA error: no kernel image is available for execution on the device; "
    )
    assert set(found) == {"detector runs"}
    with pytest.raises(UserError, match="no reference is recorded: detector runs: RuntimeError: CUDA error"):
        calibrate(detector, classifier)
    handle.remove()
    assert not failures(self_check(detector, classifier, reference))

    with torch.no_grad():
        projection = detector._model.model.pixel_level_module.encoder.swin.embeddings.patch_embeddings.projection
        projection.weight.zero_()  # what a kernel leaves behind that never ran
        assert "the same scores in different images" in failures(self_check(detector, classifier, None))["detector runs"]
        projection.weight.fill_(float("nan"))
    assert "not finite" in failures(self_check(detector, classifier, None))["detector runs"]


def test_dead_and_broken_kernels_of_clip_fail(detector: Mask2FormerDetector, classifier: ClipColorClassifier) -> None:
    weight = classifier._model.visual.conv1.weight
    with torch.no_grad():
        weight.zero_()
        assert "the same logits for crops" in failures(self_check(detector, classifier, None))["classifier runs"]
        weight.fill_(float("nan"))
    assert "logits are not finite" in failures(self_check(detector, classifier, None))["classifier runs"]


class Blind:
    """A detector that answers and finds nothing, as one with another model's configuration does."""

    name, revision, class_names = "blind", "1", ("cow",)

    def detect(self, images: Sequence[Image.Image]) -> list[dict[str, Detections]]:
        return [{"cow": Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))} for _ in images]


def test_a_detector_that_finds_nothing_fails(classifier: ClipColorClassifier) -> None:
    assert "nothing at all is detected" in failures(self_check(Blind(), classifier, None))["detector runs"]


def test_slightly_different_numbers_pass_and_different_ones_fail(
    detector: Mask2FormerDetector, classifier: ClipColorClassifier, reference: dict[str, Any]
) -> None:
    def changed(**change: float) -> dict[str, str]:
        other = copy.deepcopy(reference)
        best = other["detector"]["answers"][1][0]
        best[1] += change.get("score", 0)
        best[2][0] += change.get("corner", 0)
        best[3] += int(change.get("area", 0) * best[3] + 11 * bool(change.get("area")))
        other["classifier"]["answers"][3][4] += change.get("logit", 0)
        return failures(self_check(detector, classifier, other))

    assert not changed(score=0.015, corner=2.5, area=0.02, logit=0.08)
    for change in ({"score": 0.03}, {"corner": 4}, {"area": 0.3}):
        [(name, message)] = changed(**change).items()
        assert name == "detections as recorded"
        assert "in test image 1 is not " in message
    [(name, message)] = changed(logit=0.12).items()
    assert name == "CLIP logits as recorded"
    assert message.startswith(f"0.12 apart on the {COLORS[3]} crop")


def test_an_object_that_the_reference_lacks_fails(
    detector: Mask2FormerDetector, classifier: ClipColorClassifier, reference: dict[str, Any]
) -> None:
    other = copy.deepcopy(reference)
    best = other["detector"]["answers"][0]
    other["detector"]["answers"][0] = [row for row in best if row[1] < best[0][1] - 0.05 or row[0] != best[0][0]]
    assert len(other["detector"]["answers"][0]) < TOP
    assert "is not recorded within" in failures(self_check(detector, classifier, other))["detections as recorded"]


def test_a_reference_of_something_else_fails(
    detector: Mask2FormerDetector, classifier: ClipColorClassifier, reference: dict[str, Any]
) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"probes": "0"}, "the reference is of other test images"),
        (
            {"detector": {**reference["detector"], "weights": "cd" * 32}},
            "the reference is of other detector weights, cdcdcdcdcdcd",
        ),
        (
            {"classifier": {**reference["classifier"], "weights": None}},
            "the reference is of other classifier weights, none, these",
        ),
        ({"detector": {**reference["detector"], "name": "mmdet"}}, "the reference is of detector mmdet, this is mask2former"),
        ({"detector": {}}, "reference: detector: not a Seen of this version"),
        ({"more": 1}, "reference: not a Reference of this version"),
    ]
    for change, message in changes:
        found = failures(self_check(detector, classifier, {**reference, **change}))
        assert list(found) == ["calibration"]
        assert found["calibration"].startswith(message)
        assert "record one, by calibrate," in found["calibration"]


def test_weights_are_compared_with_published_digests(detector: Mask2FormerDetector, classifier: ClipColorClassifier) -> None:
    def check(model: str) -> Check:
        [found] = [each for each in self_check(detector, classifier, None) if each.name == f"{model} weights"]
        return found

    assert check("detector").message == f"unknown: no published SHA-256 is at hand for {SHA256}"
    detector.revision = "no digest"
    assert check("detector").message == "unknown: no published SHA-256 is at hand for weights without one"
    for revision in (f"weights sha256 743b7d99{SHA256[8:]}", f"weights sha256 {SHA256} converted from 743b7d99{SHA256[8:]}"):
        detector.revision = revision
        assert check("detector").message == "GenEval's own, by the first digits of a SHA-256, 743b7d99"
    classifier.weights_path = Path("weights/ViT-L-14.pt")
    damaged = check("classifier")
    assert not damaged.passed
    assert "damaged, or another file under this name; download it again" in damaged.message
    classifier.revision = f"weights sha256 {open_clip.get_pretrained_url('ViT-L-14', 'openai').split('/')[-2]}"
    assert check("classifier") == Check("classifier weights", True, "the published file, by its SHA-256")


def test_the_test_images_are_the_same_everywhere() -> None:
    assert [image.size for image in probe_images()] == [(320, 240)] * 2
    crops, names = probe_crops()
    assert len(crops) == len(names) == 10
    for crop, color in zip(crops, COLORS, strict=True):
        assert crop.getpixel((crop.width // 2, crop.height // 2)) == Image.new("RGB", (1, 1), color).getpixel((0, 0))
        assert crop.getpixel((0, 0)) == (0x99, 0x99, 0x99)
    # Pixels, not a library's taste: a change here makes every recorded reference useless.
    assert probes_digest() == "39786ba6bcd5d992b4a88317666dcfb688a5186ddbd2f1f3de3ec60bbbdf0184"
