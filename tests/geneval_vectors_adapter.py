"""Runs the evaluator on a test-vector file: drawn images with made-up detections and what the official script said.

    python geneval_vectors.py compare --expected expected.jsonl.gz --metadata evaluation_metadata.jsonl \\
        --names object_names.txt --candidate tests.geneval_vectors_adapter:candidate --check-reason
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from evaluators.detection import Detections
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.scoring import crop_colors, score_image


class _CaseClassifier:
    """The case's own classifier, which looks at the pixels of each crop."""

    name = "vectors"
    revision = "stub"

    def __init__(self, case: Any) -> None:
        self._case = case

    def classify(self, crops: Sequence[Image], class_names: Sequence[str]) -> list[str]:
        return self._case.classify(crops, class_names[0])


def candidate(case: Any) -> dict[str, Any]:
    """Our verdict on one case: {"correct", "reason", "details"}. `case.options` holds any subset of the options, as floats."""
    output = case.detector_output()
    rows, masks = output if case.with_masks else (output, None)  # lists over the classes
    detections = {
        name: Detections(found[:, :4], found[:, 4], None if masks is None else np.stack(masks[index]))
        for index, (name, found) in enumerate(zip(case.classnames, rows, strict=True))
        if len(found)
    }
    options = GenEvalOptions.from_mapping(case.options)
    verdict = score_image(case.metadata, detections, crop_colors(case.image(), _CaseClassifier(case)), options)
    return {"correct": verdict.correct, "reason": verdict.reason, "details": verdict.details}
