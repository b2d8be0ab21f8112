"""Before anything is scored: do the models compute, are they the ones they should be, and do they see what they saw elsewhere?

GenEval installations go wrong without a word: kernels that are missing for a GPU leave zeros behind, weights of another
configuration load in part, open_clip swaps an activation. The score is then low, and nothing says why.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from evaluators.detection import Detections, Detector
from evaluators.geneval.metadata import COLORS
from evaluators.geneval.self_check_images import probe_crops, probe_images, probes_digest
from rf_repro.core.errors import UserError
from rf_repro.core.records import strict

if TYPE_CHECKING:
    from evaluators.colors.clip import ClipColorClassifier

T = TypeVar("T")
Found = list[dict[str, Detections]]  # of each image: class name -> its detections
Logits = npt.NDArray[np.float32]  # [crops, colours]

# Full SHA-256 digests of published weights, by file name. OpenAI's download address of CLIP contains it.
GENEVAL_DETECTOR = "743b7d99"  # OpenMMLab's Mask2Former Swin-S, whose file name has these first digits of its SHA-256
PUBLISHED = {"ViT-L-14.pt": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"}
TOP = 10  # best-scored objects of an image that a reference keeps
# How far the same weights may be from their reference on another device. Chosen, not derived, well above float noise: float16
# autocast moves the logits of a ViT-L-14 with random weights by 0.02, and rounds logits near 25 to 1/64; the other activation
# moves them by 0.09, and is checked apart. TF32 moves scores by about 1e-3.
LOGIT_TOLERANCE = 0.1  # 100 x cosine
SCORE_TOLERANCE = 0.02
BOX_TOLERANCE = 3.0  # pixels, of each corner
AREA_TOLERANCE = 0.05  # share of a mask's pixels, beside 10 of them

SHA256 = r"\b[0-9a-f]{64}\b"
RUNS = "the installation does not fit this machine: check that torch (and mmcv, with mmdet) is built for its GPU, or use the CPU"
RECORD = "record one, by calibrate, on a machine that is known to be right"


@dataclass(frozen=True)
class Check:
    """One question with its answer; `message` says what was found, and what to do when it is wrong."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Seen:
    """What one model made of the probes: `answers` are the detector's best objects an image, or the classifier's logits."""

    name: str
    revision: str
    weights: str | None  # SHA-256, where the revision holds one
    answers: list[list[Any]]


@dataclass(frozen=True)
class Reference:
    """What both models made of the probes whose digest is `probes`, on a machine that is known to be right."""

    probes: str
    profile: str
    detector: Seen
    classifier: Seen

    @classmethod
    def from_dict(cls, data: Any) -> "Reference":
        """Raises UserError when the fields are not this version's."""
        return strict(cls, data, "reference")


def calibrate(detector: Detector, classifier: "ClipColorClassifier") -> dict[str, Any]:
    """What these models make of the probes, for `self_check` elsewhere; JSON-serialisable.

    Raises:
        UserError: they do not compute, or are not what they claim to be.
    """
    found, logits, checks = _run(detector, classifier)
    failed = [check for check in checks if not check.passed]
    if failed or found is None or logits is None:
        raise UserError("no reference is recorded: " + "; ".join(f"{check.name}: {check.message}" for check in failed))
    return asdict(
        Reference(
            probes=probes_digest(),
            profile=classifier.profile.name,
            detector=Seen(
                detector.name, detector.revision, weights_sha256(detector.revision), [_objects(each)[:TOP] for each in found]
            ),
            classifier=Seen(classifier.name, classifier.revision, weights_sha256(classifier.revision), logits.tolist()),
        )
    )


def self_check(detector: Detector, classifier: "ClipColorClassifier", reference: dict[str, Any] | None) -> list[Check]:
    """Runs both models on images drawn by code, and compares with what `calibrate` recorded.

    Args:
        reference: of the same weights. None: nothing says whether the numbers are right, and the last check says
            `not calibrated`.

    Returns:
        Every check, also after one has failed. Scores are to be trusted only when all have passed.
    """
    found, logits, checks = _run(detector, classifier)
    if reference is None:
        return [*checks, Check("calibration", True, f"not calibrated: no reference to compare with; {RECORD}")]
    try:
        recorded = Reference.from_dict(reference)
    except UserError as error:
        return [*checks, Check("calibration", False, f"{error}; {RECORD}")]
    problem = _mismatch(recorded, detector, classifier)
    if problem:
        return [*checks, Check("calibration", False, f"{problem}; give the reference of these models, or {RECORD}")]
    checks.append(Check("calibration", True, "the reference is of these weights and images"))
    if found is not None:
        checks.append(_compare_objects(found, recorded.detector.answers))
    if logits is not None:
        checks.append(_compare_logits(logits, np.asarray(recorded.classifier.answers, np.float32)))
    return checks


def weights_sha256(revision: str) -> str | None:
    """The digest of the weights in a detector's or classifier's revision; None where it holds none."""
    match = re.search(SHA256, revision)
    return match.group() if match else None


def _run(detector: Detector, classifier: "ClipColorClassifier") -> tuple[Found | None, Logits | None, list[Check]]:
    """(detections, logits, checks without a reference); None for a model that does not compute."""
    images = probe_images()
    detection = _attempt("detector runs", partial(detector.detect, images), partial(_detector_fault, images))
    classification = _attempt("classifier runs", partial(classifier.logits, *probe_crops()), _classifier_fault)
    checks = [
        detection[1],
        _weights_check("detector weights", detector),
        classification[1],
        _weights_check("classifier weights", classifier),
        _activation_check(classifier),
    ]
    return detection[0], classification[0], checks


def _activation_check(classifier: "ClipColorClassifier") -> Check:
    name, profile, built = "CLIP activation", classifier.profile, classifier.activation
    if built == profile.activation:
        return Check(name, True, f"{built} in every block, as profile {profile.name} has it")
    problem = f"profile {profile.name} needs {profile.activation}, the model computes {built}"
    return Check(name, False, f"{problem}; install the versions of the extra `geneval`")


def _attempt(name: str, run: Callable[[], T], fault: Callable[[T], str | None]) -> tuple[T | None, Check]:
    try:
        value = run()
    except Exception as error:  # whatever a model raises here is the finding, and it is reported
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        return None, Check(name, False, f"{type(error).__name__}: {reason}; {RUNS}")
    problem = fault(value)
    if problem:
        return None, Check(name, False, problem)
    return value, Check(name, True, "finite and different for different images")


def _detector_fault(images: Sequence[Image], found: Found) -> str | None:
    if len(found) != len(images):
        return f"answers for {len(found)} of {len(images)} images; the detector is at fault"
    objects = [each for image in found for each in image.values()]
    if any(not np.isfinite(part).all() for each in objects for part in (each.boxes, each.scores)):
        return f"boxes or scores are not finite; {RUNS}"
    for image, seen in zip(images, found, strict=True):
        if any(each.masks is not None and each.masks.shape[1:] != (image.height, image.width) for each in seen.values()):
            return "masks are not of their image's size; the detector is at fault"
    if not any(len(each) for each in objects):
        return f"nothing at all is detected, not even with a low score: wrong weights or configuration, or {RUNS}"
    scores = [{name: each.scores.tolist() for name, each in seen.items()} for seen in found]
    return f"the same scores in different images; {RUNS}" if scores.count(scores[0]) == len(scores) else None


def _classifier_fault(logits: Logits) -> str | None:
    if not np.isfinite(logits).all():
        return f"logits are not finite; {RUNS}"
    classes = np.array(probe_crops()[1])  # each class has texts, and so logits, of its own
    same = any((logits[classes == name] == logits[classes == name][0]).all() for name in set(classes))
    return f"the same logits for crops of different colours; {RUNS}" if same else None


def _weights_check(name: str, model: Any) -> Check:
    """Compares with the published digest. A digest in an OpenMMLab file's name was already held to when it was read."""
    digests = re.findall(SHA256, model.revision)
    if any(digest.startswith(GENEVAL_DETECTOR) for digest in digests):
        return Check(name, True, f"GenEval's own, by the first digits of a SHA-256, {GENEVAL_DETECTOR}")
    if set(digests) & set(PUBLISHED.values()):
        return Check(name, True, "the published file, by its SHA-256")
    file = Path(getattr(model, "weights_path", "")).name
    if file in PUBLISHED:
        problem = f"SHA-256 {digests}, published is {PUBLISHED[file]}"
        return Check(name, False, f"{file}: {problem}: damaged, or another file under this name; download it again")
    return Check(name, True, f"unknown: no published SHA-256 is at hand for {', '.join(digests) or 'weights without one'}")


def _mismatch(reference: Reference, detector: Detector, classifier: "ClipColorClassifier") -> str | None:
    if reference.probes != probes_digest():
        return "the reference is of other test images, by another version"
    if reference.profile != classifier.profile.name:
        return f"the reference is of profile {reference.profile}, this is {classifier.profile.name}"
    for kind, seen, model in (("detector", reference.detector, detector), ("classifier", reference.classifier, classifier)):
        if seen.name != model.name:
            return f"the reference is of {kind} {seen.name}, this is {model.name}"
        mine = weights_sha256(model.revision)
        if seen.weights != mine:
            return f"the reference is of other {kind} weights, {(seen.weights or 'none')[:12]}, these are {(mine or 'none')[:12]}"
    return None


def _objects(seen: dict[str, Detections]) -> list[list[Any]]:
    """[class, score, box, pixels of the mask or None] of every object, best first."""
    rows = [
        [name, score, box, None if each.masks is None else int(each.masks[i].sum())]
        for name, each in sorted(seen.items())
        for i, (score, box) in enumerate(zip(each.scores.tolist(), each.boxes.tolist(), strict=True))
    ]
    return sorted(rows, key=lambda row: -row[1])


def _compare_objects(found: Found, recorded: Sequence[list[list[Any]]]) -> Check:
    """Every recorded object must be found, and every one found that is clearly better than the last one recorded, recorded."""
    name, within = "detections as recorded", f"within {SCORE_TOLERANCE} and {BOX_TOLERANCE:.0f} pixels"
    for index, (seen, known) in enumerate(zip(map(_objects, found), recorded, strict=True)):
        floor = SCORE_TOLERANCE + (known[-1][1] if len(known) == TOP else 0)
        for objects, others, verb in ((known, seen, "found"), ([each for each in seen if each[1] > floor], known, "recorded")):
            for each in objects:
                if not any(_alike(each, other) for other in others):
                    where = f"the {each[0]} of score {each[1]:.3f} at {[round(x) for x in each[2]]} in test image {index}"
                    return Check(name, False, f"{where} is not {verb} {within}; {RUNS}")
    return Check(name, True, f"{sum(map(len, recorded))} objects {within}")


def _alike(first: list[Any], second: list[Any]) -> bool:
    (name, score, box, area), (other_name, other_score, other_box, other_area) = first, second
    return (
        name == other_name
        and abs(score - other_score) <= SCORE_TOLERANCE
        and all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(box, other_box, strict=True))
        and (area is None) == (other_area is None)
        and (area is None or abs(area - other_area) <= AREA_TOLERANCE * max(area, other_area) + 10)
    )


def _compare_logits(logits: Logits, recorded: Logits) -> Check:
    name = "CLIP logits as recorded"
    if logits.shape != recorded.shape:
        return Check(name, False, f"the reference has logits {recorded.shape}, these are {logits.shape}; {RECORD}")
    distance = float(np.abs(logits - recorded).max())
    if distance > LOGIT_TOLERANCE:
        crop = int(np.abs(logits - recorded).max(1).argmax())
        return Check(
            name, False,
            f"{distance:.2f} apart on the {COLORS[crop]} crop, at most {LOGIT_TOLERANCE} is float noise; other library versions "
            f"compute something else: install those of the extra `geneval`; {RUNS}",
        )  # fmt: skip
    return Check(name, True, f"within {distance:.3f}, at most {LOGIT_TOLERANCE} is float noise")
