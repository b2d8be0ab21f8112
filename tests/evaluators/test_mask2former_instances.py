"""The post-processing against mmdet's rules written out one query and class at a time, and COCO's names."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluators.detectors.coco import COCO_NAMES, OBJECT_NAMES, misplaced
from evaluators.detectors.instances import by_class, exact_inference, find_instances
from evaluators.detectors.pixels import Frame

OBJECT_NAMES_FILE = Path(__file__).parents[3] / "shared/geneval/object_names.txt"
FRAME = Frame(original=(50, 41), resized=(37, 30), padded=(64, 32))


def plainly(class_logits: torch.Tensor, mask_logits: torch.Tensor) -> list[tuple[str, float, list[int], np.ndarray]]:
    """(class, score, box, mask) of the 100 best pairs, without batching anything."""
    pairs = []
    for query, logits in enumerate(class_logits.double()):
        exponentials = [float(torch.exp(value)) for value in logits]
        for label in range(len(exponentials) - 1):
            pairs.append((exponentials[label] / sum(exponentials), query, label))
    found = []
    for probability, query, label in sorted(pairs, reverse=True)[:100]:
        large = F.interpolate(mask_logits[query][None, None], (64, 32), mode="bilinear", align_corners=False)
        logits = F.interpolate(large[:, :, :37, :30], (50, 41), mode="bilinear", align_corners=False)[0, 0].double().numpy()
        mask = logits > 0
        mean = float((1 / (1 + np.exp(-logits[mask]))).mean()) if mask.any() else 0.0
        y, x = np.nonzero(mask)
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1] if mask.any() else [0, 0, 0, 0]
        found.append((OBJECT_NAMES[label], probability * mean, [int(side) for side in box], mask))
    return found


def test_instances_are_those_of_the_rules_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(30, 81, generator=generator) * 3
    mask_logits = torch.randn(30, 16, 8, generator=generator) - 1
    mask_logits[7] = -1.0  # an empty mask
    class_logits[7, 3] = 30.0  # of a query that is surely reported
    expected = plainly(class_logits, mask_logits)
    found = find_instances(class_logits, mask_logits, FRAME)
    assert sum(len(objects) for objects in found.values()) == len(expected) == 100
    assert len({mask.tobytes() for *_, mask in expected}) < 100, "some query must be reported as several classes"
    for name, objects in found.items():
        same = [item for item in expected if item[0] == name]
        np.testing.assert_allclose(objects.scores, [score for _, score, _, _ in same], rtol=1e-4)
        np.testing.assert_array_equal(objects.boxes, [box for _, _, box, _ in same])
        np.testing.assert_array_equal(objects.masks, [mask for *_, mask in same])
    empty = [i for i, mask in enumerate(found["motorcycle"].masks) if not mask.any()]  # type: ignore[arg-type]
    assert found["motorcycle"].scores[empty].tolist() == [0.0]
    assert found["motorcycle"].boxes[empty].tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_fewer_pairs_than_a_hundred_are_all_reported() -> None:
    found = find_instances(torch.zeros(1, 81), torch.ones(1, 16, 8), FRAME)
    assert list(found) == list(OBJECT_NAMES)
    assert all(len(objects) == 1 and objects.masks.all() for objects in found.values())  # type: ignore[union-attr]


def test_labels_are_indices_and_order_within_a_class_is_kept() -> None:
    labels = np.array([66, 0, 66])
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = by_class(labels, boxes, np.array([0.1, 0.5, 0.9], np.float32), np.zeros((3, 2, 2), bool))
    assert set(found) == {"person", "computer keyboard"}
    np.testing.assert_array_equal(found["computer keyboard"].boxes, boxes[[0, 2]])


def test_names_are_genevals_in_cocos_order() -> None:
    assert len(set(OBJECT_NAMES)) == 80
    assert {COCO_NAMES[i]: name for i, name in enumerate(OBJECT_NAMES) if COCO_NAMES[i] != name} == {
        "mouse": "computer mouse",
        "remote": "tv remote",
        "keyboard": "computer keyboard",
    }
    if not OBJECT_NAMES_FILE.exists():
        pytest.skip(f"{OBJECT_NAMES_FILE} is not at hand to compare with")
    assert "\n".join(OBJECT_NAMES) == OBJECT_NAMES_FILE.read_text(encoding="utf-8").strip()


def test_a_known_name_in_another_place_is_noticed() -> None:
    labels = dict(enumerate(COCO_NAMES))
    assert misplaced(labels) == []
    assert misplaced({**labels, 57: "sofa"}) == []
    assert misplaced({**labels, 0: "bicycle", 1: "person"}) == ["bicycle", "person"]


def test_inference_is_in_float32_and_leaves_settings_as_they_were() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with exact_inference():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.deterministic
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.is_inference_mode_enabled()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[2])
    assert before[:2] == (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)
