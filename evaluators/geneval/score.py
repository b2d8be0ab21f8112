"""From verdicts on images to rows and a result, for every kind of image; and the verdicts on a scanned folder.

A folder is judged from what the cache knows: no model, no image, a few seconds for 2,212 images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators.detection import ColorClassifier, Detections, Detector
from evaluators.geneval.cache import FLOOR, MAX_CANDIDATES, Cache, Evaluator
from evaluators.geneval.detect import colored_classes
from evaluators.geneval.folder import ImageFile, Scan
from evaluators.geneval.metadata import PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.scoring import ImageVerdict, score_image
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
        raise UserError(f"{scan.root}: {len(rows)} of {scan.expected} images can be scored; complete it, or give partial=True")
    images_of = {(m["tag"], m["prompt"]): scan.images_per_prompt for m in scan.prompts.values()}
    result = make_result(
        rows, options, images_of, {**models_of(cache.detector, cache.classifier), **evaluator}, benchmark="geneval",
        prompt_set=prompt_set, expected_n=scan.expected, unread=scan.damaged,
    )  # fmt: skip
    return result, rows


def verdict_row(metadata: Mapping[str, Any], verdict: ImageVerdict | str) -> Row:
    """What a row says of the verdict: tag, prompt, correct, reason, failure, details.

    Args:
        verdict: or why there is none: the image counts as unreadable.
    """
    asked = {"tag": metadata["tag"], "prompt": metadata["prompt"]}
    if isinstance(verdict, str):
        return {**asked, "correct": None, "reason": verdict, "failure": "unreadable", "details": {}}
    return {
        **asked, "correct": verdict.correct, "reason": verdict.reason, "failure": verdict.failure, "details": verdict.details,
    }  # fmt: skip


def models_of(detector: Detector | Evaluator, classifier: ColorClassifier | Evaluator) -> dict[str, str]:
    """What a result says of who looked."""
    return {
        "detector": detector.name,
        "detector_revision": detector.revision,
        "color_classifier": classifier.name,
        "color_classifier_revision": classifier.revision,
    }


def make_result(
    rows: Sequence[Row],
    options: GenEvalOptions,
    images_of: Mapping[tuple[str, str], int],
    evaluator: Mapping[str, str],
    *,
    benchmark: str,
    expected_n: int,
    prompt_set: str = "",
    unread: int = 0,
    step: int | None = None,
    weights: str | None = None,
) -> EvalResult:
    """GenEval's numbers from rows, those without a verdict (`correct` None) left out.

    Args:
        images_of: (tag, prompt) -> number of images asked for.
        evaluator: who looked.
        expected_n: images that a whole set has.
        prompt_set: name of the prompts; part of the protocol.
        unread: images that are there and have no row.
        benchmark, step, weights: recorded as they are.
    """
    metrics, missing = summarize(rows)
    unscored = sum(row["correct"] is None for row in rows)
    return EvalResult(
        benchmark=benchmark,
        protocol=f"{protocol_id(options, images_of)} {prompt_set}".rstrip(),
        metrics=metrics,
        n=len(rows) - unscored,
        expected_n=expected_n,
        failures=unscored + unread,
        missing=missing,
        evaluator=dict(evaluator),
        step=step,
        weights=weights,
    )


def _row(image: ImageFile, metadata: dict[str, Any], cache: Cache, options: GenEvalOptions) -> Row:
    found = cache.detections(image.sha256, masks=False)
    found = cache.with_colors(image.sha256, found, colored_classes(metadata))
    verdict = score_image(metadata, found, _known_color, options)
    return {
        "prompt_id": image.prompt_id,
        "sample": image.sample,
        "sha256": image.sha256,
        **verdict_row(metadata, verdict),
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
