"""From Mask2Former's raw logits to instances, by mmdet's rules: GenEval's scores and thresholds belong to them.

`transformers` has a post-processing of its own, with other numbers: masks of 384 x 384, resized by nearest neighbour, scores
below 0.5 dropped, each pixel given to one instance only.

Legend: Q queries, C classes, N instances, H x W pixels of the original image.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators.detection import Detections
from evaluators.detectors.coco import OBJECT_NAMES
from evaluators.detectors.pixels import Frame

MAX_INSTANCES = 100
_QUERIES_AT_ONCE = 10  # masks at full size are 4 bytes a pixel: 40 MB for 1024 x 1024


@contextmanager
def exact_inference() -> Iterator[None]:
    """Inference in true float32 with convolutions that repeat to the bit.

    Tensor cores round float32 to 10 bits of mantissa unless told not to, so that scores would depend on the kind of GPU.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def find_instances(class_logits: Tensor, mask_logits: Tensor, frame: Frame) -> dict[str, Detections]:
    """The instances of one image.

    The 100 best pairs of query and class count, by probability of the class; so one query may be reported as several
    classes. A mask is where its logit, brought to the original size, is positive. The score is the class probability times
    the mean mask probability there. A box is tight, its far sides exclusive.

    Args:
        class_logits: [Q, C + 1], the last one for "no object".
        mask_logits: [Q, any, any], over the padded image.
    """
    probabilities = F.softmax(class_logits, dim=-1)[:, :-1]
    class_scores, pairs = probabilities.flatten().topk(min(MAX_INSTANCES, probabilities.numel()))
    labels = pairs % probabilities.shape[1]
    queries, query_of = torch.unique(pairs // probabilities.shape[1], return_inverse=True)
    parts = [_masks(mask_logits[chosen], frame) for chosen in queries.split(_QUERIES_AT_ONCE)]
    masks, boxes, mask_scores = (torch.cat(items) for items in zip(*parts, strict=True))
    scores = class_scores * mask_scores[query_of]
    label_array, box_array, score_array = (part.cpu().numpy() for part in (labels, boxes[query_of], scores.float()))
    return by_class(label_array, box_array, score_array, masks.numpy()[query_of.cpu().numpy()])


def _masks(logits: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """(masks bool [n, H, W] on the CPU, boxes float32 [n, 4], mean probabilities float32 [n]) of mask logits [n, any, any]."""
    logits = F.interpolate(logits[:, None], frame.padded, mode="bilinear", align_corners=False)
    logits = logits[:, :, : frame.resized[0], : frame.resized[1]]
    logits = F.interpolate(logits, frame.original, mode="bilinear", align_corners=False)[:, 0]
    masks = logits > 0
    area = masks.sum((1, 2))
    scores = (logits.sigmoid() * masks).sum((1, 2)) / (area + 1e-6)
    (left, right), (top, bottom) = _extent(masks.any(1)), _extent(masks.any(2))
    return masks.cpu(), torch.stack([left, top, right, bottom], 1).float(), scores


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """(first, one past the last) index of True in each row of bool [n, size]; 0, 0 where there is none."""
    first = occupied.byte().argmax(1)
    end = occupied.shape[1] - occupied.flip(1).byte().argmax(1)
    return first, end * occupied.any(1)


def by_class(labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray, masks: np.ndarray) -> dict[str, Detections]:
    """Instances under GenEval's name of their label, an index into COCO's 80 classes; order within a class is kept."""
    found = Detections(boxes, scores, masks)
    return {OBJECT_NAMES[label]: found.take(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels).tolist()}
