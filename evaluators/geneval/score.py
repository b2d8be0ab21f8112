"""GenEval's verdicts on a scanned folder from what the cache knows: no model, no image, a few seconds for 2,212 images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators.detection import Detections
from evaluators.geneval.cache import FLOOR, MAX_CANDIDATES, Cache
from evaluators.geneval.detect import colored_classes
from evaluators.geneval.folder import ImageFile, Scan
from evaluators.geneval.metadata import PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.scoring import score_image
from evaluators.geneval.summary import protocol_id, summarize
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult

Row = dict[str, Any]


def score_folder(
    scan: Scan,
    cache: Cache,
    options: GenEvalOptions,
    *,
    prompt_set: str,
    evaluator: Mapping[str, str],
    partial: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[EvalResult, list[Row]]:
    """Judges every scanned image.

    Args:
        prompt_set: name of the prompts; part of the protocol.
        evaluator: recorded in the result beside detector and classifier.
        partial: the result may rest on fewer images than a complete folder holds, and says so.

    Returns:
        The result, and one row an image in the folder's order: prompt_id, sample, sha256, tag, prompt, correct, reason,
        failure, details, colors (class, asked, seen), decisive (class -> score of the object on which its count hangs).

    Raises:
        UserError: the cache lacks an image, the options ask for a colour nobody looked at, or images are missing and `partial`
            is false.
    """
    rows: list[Row] = []
    for done, image in enumerate(scan.images, start=1):
        rows.append(_row(image, scan.prompts[image.prompt_id], cache, options))
        progress(done, len(scan.images))
    if len(rows) < scan.expected and not partial:
        raise UserError(f"{scan.root}: {len(rows)} of {scan.expected} images can be scored; complete it, or give --partial")
    metrics, missing = summarize(rows)
    expected = {(m["tag"], m["prompt"]): scan.images_per_prompt for m in scan.prompts.values()}
    result = EvalResult(
        benchmark="geneval",
        protocol=f"{protocol_id(options, expected)} {prompt_set}",
        metrics=metrics,
        n=len(rows),
        expected_n=scan.expected,
        failures=sum(problem.kind == "damaged image" for problem in scan.problems),
        missing=missing,
        evaluator={
            "detector": cache.detector.name,
            "detector_revision": cache.detector.revision,
            "color_classifier": cache.classifier.name,
            "color_classifier_revision": cache.classifier.revision,
            **evaluator,
        },
    )
    return result, rows


def _row(image: ImageFile, metadata: dict[str, Any], cache: Cache, options: GenEvalOptions) -> Row:
    found = cache.detections(image.sha256, masks=False)
    found = cache.with_colors(image.sha256, found, colored_classes(metadata))
    verdict = score_image(metadata, found, _known_color, options)
    return {
        "prompt_id": image.prompt_id,
        "sample": image.sample,
        "sha256": image.sha256,
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": verdict.correct,
        "reason": verdict.reason,
        "failure": verdict.failure,
        "details": verdict.details,
        "colors": [list(answer) for answer in verdict.colors],
        "decisive": _decisive(metadata, found),
    }


def _known_color(name: str, objects: Detections) -> Sequence[str]:
    colors = objects.colors or (None,) * len(objects)
    if any(color is None for color in colors):
        raise UserError(
            f"no colour is known of a {name} that these options count: colours were asked of the {MAX_CANDIDATES} best objects "
            f"of a class with a score above {FLOOR}; options within these bounds can be scored"
        )
    return [color for color in colors if color is not None]


def _decisive(metadata: Mapping[str, Any], found: Mapping[str, Detections]) -> dict[str, float | None]:
    """Class -> score of its n-th best object, for each class of which n are asked for or forbidden; None when there are fewer.

    Its distance to the threshold tells how nearly the count would have come out otherwise.
    """
    spec = PromptSpec.parse(dict(metadata), "metadata")
    decisive: dict[str, float | None] = {}
    for clause in (*spec.include, *spec.exclude):
        scores = np.sort(found[clause.class_name].scores)[::-1] if clause.class_name in found else np.zeros(0)
        key = clause.class_name if clause in spec.include else f"not {clause.class_name}"
        decisive[key] = float(scores[clause.count - 1]) if len(scores) >= clause.count else None
    return decisive
