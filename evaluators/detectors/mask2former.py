"""Mask2Former through `transformers`: needs nothing but pip packages.

Weights are a folder or a hub id in the `transformers` layout: GenEval's own, the OpenMMLab checkpoint converted by
`evaluators.detectors.openmmlab`, or FAIR's `facebook/mask2former-swin-small-coco-instance`, which was trained apart and gives
other scores.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluators.detection import Detections
from evaluators.detectors.coco import OBJECT_NAMES, misplaced
from evaluators.detectors.detector import Mask2Former
from evaluators.detectors.instances import find_instances
from evaluators.detectors.openmmlab import SOURCE
from evaluators.detectors.pixels import Frame
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.core.hub import find_model, loading, refuse_strangers, require_all_weights
from rf_repro.core.install import extra_hint
from rf_repro.core.streams import quiet_transformers

FILE = "model.safetensors"
VERSION = 1  # of the code around the model; a change that moves any number raises it


class Mask2FormerDetector(Mask2Former):
    """The network of `transformers`, and mmdet's post-processing of what it says."""

    name = "mask2former-transformers"

    def find(self, pixels_BCPQ: Tensor, frame: Frame) -> list[dict[str, Detections]]:
        output = self._model(pixel_values=pixels_BCPQ, output_auxiliary_logits=False)
        pairs = zip(output.class_queries_logits, output.masks_queries_logits, strict=True)
        return [find_instances(class_logits, mask_logits, frame) for class_logits, mask_logits in pairs]


def load(weights: str, device: str = "cpu") -> Mask2FormerDetector:
    """The detector from a folder or a hub id. `revision` holds the library versions and the weights' SHA-256.

    Raises:
        UserError: no such weights, not all of them, or a model of other classes.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"detector='transformers': needs transformers ({error}); install it with: {extra_hint('geneval')}"
        ) from None
    folder = _folder(weights)
    with quiet_transformers(), loading(weights, "give a folder or a hub id"):
        refuse_strangers(folder, weights)
        loaded: Any = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
        )  # fmt: skip
    model, info = loaded
    require_all_weights(info, weights, _unused)
    labels = model.config.id2label
    if len(labels) != len(OBJECT_NAMES) or (wrong := misplaced(labels)):
        reason = f"{len(labels)} classes" if len(labels) != len(OBJECT_NAMES) else f"other places for {', '.join(wrong[:3])}"
        raise UserError(f"{weights}: {reason}: must be a model of COCO's 80 classes in COCO's order (instance segmentation)")
    source = getattr(model.config, SOURCE, None)
    versions = f"{VERSION}, transformers {transformers.__version__}, torch {torch.__version__}"
    revision = f"{versions}, weights sha256 {file_sha256(folder / FILE)}" + (f" converted from {source}" if source else "")
    return Mask2FormerDetector(model, revision, torch.device(device))


def _unused(name: str) -> bool:
    """Swin's last norm feeds a classifier that a detector does not have; a table of places follows from the window's size."""
    return ".swin.layernorm." in name or name.endswith(".relative_position_index")


def _folder(weights: str) -> Path:
    """Where all weights lie in one file, beside their config.json; fetched or found in the cache for a hub id."""
    if Path(weights).is_file():
        raise UserError(
            f"{weights}: a file, must be a folder or a hub id; an OpenMMLab checkpoint is converted by: "
            f"python -m evaluators.detectors.openmmlab {weights} FOLDER"
        )
    folder = find_model(weights, weights, ("config.json", FILE))
    for name in ("config.json", FILE):
        if not (folder / name).is_file():
            raise UserError(f"{weights}: has no {name}; give a folder or a hub id with it (pickles, .bin, are never opened)")
    return folder
