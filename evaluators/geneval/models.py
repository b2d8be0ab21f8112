"""The detector and the colour classifier that a name stands for, and whether they are what they claim to be."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from evaluators.detection import ColorClassifier, Detector
from evaluators.devices import device_of
from evaluators.results import Tell
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json

if TYPE_CHECKING:
    from evaluators.colors.clip import ClipColorClassifier

FAIR_WEIGHTS = "facebook/mask2former-swin-small-coco-instance"  # other weights than GenEval's; a result names them


def load_detector(kind: str, weights: Path | str | None, device: str) -> Detector:
    """The detector of a kind, `transformers` or `mmdet`.

    Args:
        weights: a folder, a checkpoint, or a name on the hub; None: FAIR's, for transformers.
        device: auto, cpu, cuda or mps.

    Raises:
        UserError: an unknown kind, a package is missing, or weights are missing or not those of the model.
    """
    if kind == "mmdet":
        if weights is None:
            raise UserError(
                "detector='mmdet': give weights=FILE, OpenMMLab's Mask2Former Swin-S checkpoint (.pth); see docs/geneval.md"
            )
        from evaluators.detectors import mmdet

        return mmdet.load(Path(weights), str(device_of(device)))
    if kind == "transformers":
        from evaluators.detectors import mask2former

        return mask2former.load(str(weights or FAIR_WEIGHTS), str(device_of(device)))
    raise UserError(f"detector={kind!r}: must be transformers or mmdet")


def load_classifier(weights: Path | str | None, profile: str, device: str) -> "ClipColorClassifier":
    """CLIP with these weights (default: OpenAI's) and the activation of the profile. Raises UserError as `clip.load` does."""
    from evaluators.colors import clip

    return clip.load(str(weights or clip.TAG), profile=profile, device=str(device_of(device)))


def check_models(detector: Detector, classifier: ColorClassifier, reference: Path | str | None, tell: Tell) -> dict[str, str]:
    """Runs both models on images drawn by code; what a result says of that.

    Args:
        reference: what `self_check.calibrate` recorded of these models, as JSON; None: nothing says whether their numbers are
            right.
        tell: called with the outcome of each check.

    Raises:
        UserError: a check failed, with every one that did; or the classifier has nothing that could be checked.
    """
    from evaluators.geneval.self_check import self_check

    if not hasattr(classifier, "logits"):
        raise UserError(f"self_check=True: {classifier.name} gives no logits that could be checked; give self_check=False")
    known = read_json(Path(reference), "name a JSON file") if reference else None
    checks = self_check(detector, cast("ClipColorClassifier", classifier), known)
    for check in checks:
        tell(f"{'ok' if check.passed else 'FAILED':<7} {check.name}: {check.message}")
    failed = [check for check in checks if not check.passed]
    if failed:
        names, reasons = ", ".join(check.name for check in failed), "; ".join(check.message for check in failed)
        raise UserError(f"self-check failed ({names}): nothing is scored: {reasons}")
    return {"calibration": "calibrated" if reference else "not calibrated"}
