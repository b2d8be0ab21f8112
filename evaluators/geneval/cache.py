"""What the models said of each image, on disk under the image's hash: what was seen once is never computed again.

Layout, D for a detector and C for a colour classifier, each a hash of name and revision:

    CACHE/D/evaluator.json        {"name", "revision"} of the detector
    CACHE/D/colors-C.json         the same of a classifier that looked at its objects
    CACHE/D/check-C.json          what the self-check of the two said
    CACHE/D/ab/abcd....npz        all detections in the image with that SHA-256; masks of those above `FLOOR`
    CACHE/D/ab/abcd....C-q.json   class -> index of a detection -> colour; q is a hash of the classes that were asked about

Every file is written whole and holds the same bytes whoever wrote it, so processes may share a cache without a lock, one that
is killed loses its present batch, and no merging is needed.
"""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from evaluators.detection import ColorClassifier, Detections, Detector
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, read_json, read_object, write_json, write_text
from rf_repro.core.hashing import content_hash
from rf_repro.core.typed import strict
from rf_repro.core.untrusted.problems import shown

FLOOR = 0.05  # score above which an object's mask is kept and its colour asked, so that thresholds down to it can be tried
MAX_CANDIDATES = 16  # best-scored objects of a class whose colour is asked: GenEval's own limit


@dataclass(frozen=True)
class Evaluator:
    """Who looked: a detector or a classifier by name and revision."""

    name: str
    revision: str

    @classmethod
    def of(cls, model: Detector | ColorClassifier) -> "Evaluator":
        return cls(model.name, model.revision)

    @property
    def key(self) -> str:
        return content_hash([self.name, self.revision])[:12]


@dataclass(frozen=True)
class Cache:
    """The part of a cache that belongs to one detector and one colour classifier."""

    root: Path
    detector: Evaluator
    classifier: Evaluator

    def begin(self) -> None:
        """Writes down who looks, for those who later rescore without a model."""
        for path, evaluator in (
            (self.folder / "evaluator.json", self.detector),
            (self.folder / f"colors-{self.classifier.key}.json", self.classifier),
        ):
            if not path.exists():
                write_json(path, {"name": evaluator.name, "revision": evaluator.revision})

    @property
    def folder(self) -> Path:
        return self.root / self.detector.key

    @property
    def check_path(self) -> Path:
        return self.folder / f"check-{self.classifier.key}.json"

    def detections_path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.npz"

    def colors_path(self, sha256: str, classes: Sequence[str]) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.{self.classifier.key}-{content_hash(sorted(classes))[:8]}.json"

    def has(self, sha256: str, classes: Sequence[str]) -> bool:
        """Whether all is known that a verdict asks for, colours of `classes` included."""
        return self.detections_path(sha256).exists() and (not classes or self.colors_path(sha256, classes).exists())

    def write_detections(self, sha256: str, found: Mapping[str, Detections]) -> None:
        buffer = BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **_pack(found))
        with atomic_path(self.detections_path(sha256), durable=False) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def write_colors(self, sha256: str, classes: Sequence[str], colors: Mapping[str, Mapping[int, str]]) -> None:
        value = {name: {str(i): color for i, color in sorted(of.items())} for name, of in sorted(colors.items())}
        write_text(self.colors_path(sha256, classes), json.dumps(value), durable=False)

    def detections(self, sha256: str, *, masks: bool) -> dict[str, Detections]:
        """All detections in the image; those at or below `FLOOR` have an empty mask, and without `masks` none has any.

        Raises:
            UserError: they are not in the cache, or the file is damaged.
        """
        path = self.detections_path(sha256)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return _unpack(arrays, masks)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file: this image was not detected yet; run without rescore=True") from None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{path}: damaged ({error}); delete it and run without rescore=True") from None

    def small_masks(
        self, sha256: str, wanted: Container[tuple[str, float]], max_side: int
    ) -> dict[tuple[str, float], Image.Image]:
        """Masks reduced to `max_side` pixels, for showing: (class, score) -> 1-bit image of the whole frame.

        Args:
            wanted: (class, score) of the detections to return; masks that were not kept are left out.
        """
        found = {}
        with np.load(self.detections_path(sha256), allow_pickle=False) as arrays:
            names = np.repeat(arrays["names"], arrays["counts"]).tolist()
            keys = list(zip(names, arrays["scores"].tolist(), strict=True))
            height, width = arrays["size"].tolist()
            shrink = max(1.0, max(height, width) / max_side)
            for key, (top, left, mask) in zip(keys, _windows(arrays), strict=True):
                if key in wanted and mask.size:
                    columns, rows = (max(1, round(side / shrink)) for side in mask.shape[::-1])
                    frame = Image.new("1", (round(width / shrink), round(height / shrink)))
                    frame.paste(Image.fromarray(mask).resize((columns, rows)), (round(left / shrink), round(top / shrink)))
                    found[key] = frame
        return found

    def with_colors(self, sha256: str, found: dict[str, Detections], classes: Sequence[str]) -> dict[str, Detections]:
        """The detections with the colours that are known. Raises UserError when `classes` were not asked about yet."""
        path = self.colors_path(sha256, classes)
        if not classes:
            return found
        if not path.exists():
            raise UserError(f"{path}: no such file: {self.classifier.name} has not seen this image yet; run without rescore=True")
        known = read_object(path, others=dict[str, str | None])
        for name, colors in known.items():
            if name not in found:
                raise UserError(f"{path}: {shown(name)}: the detector found none; delete the file to have it made again")
            objects = found[name]
            found = {**found, name: replace(objects, colors=tuple(colors.get(str(i)) for i in range(len(objects))))}
        return found


def known_evaluators(root: Path) -> dict[Evaluator, list[Evaluator]]:
    """Detector -> the classifiers that looked at its objects, of everything in a cache."""
    found: dict[Evaluator, list[Evaluator]] = {}
    for path in sorted(root.glob("*/evaluator.json")):
        others = sorted(path.parent.glob("colors-*.json"))
        found[_evaluator(path)] = [_evaluator(other) for other in others]
    return found


def _evaluator(path: Path) -> Evaluator:
    return strict(Evaluator, read_json(path), str(path))


def candidates(objects: Detections) -> list[int]:
    """Indices of the objects whose colour any rules may ask for: the best `MAX_CANDIDATES` above `FLOOR`."""
    order = np.argsort(-objects.scores, kind="stable")
    return [int(i) for i in order if objects.scores[i] > np.float32(FLOOR)][:MAX_CANDIDATES]


def _pack(found: Mapping[str, Detections]) -> dict[str, Any]:
    """Arrays of all classes one after another; masks as the bits within their boxes, rows of which are padded to bytes."""
    names = sorted(name for name, objects in found.items() if len(objects))
    masks = [_mask_bits(found[name], i) for name in names for i in range(len(found[name]))]
    size = next((found[name].masks.shape[1:] for name in names if found[name].masks is not None), (0, 0))  # type: ignore[union-attr]
    return {
        "names": np.array(names, dtype=np.str_),
        "counts": np.array([len(found[name]) for name in names], np.int32),
        "boxes": np.concatenate([found[name].boxes for name in names]) if names else np.zeros((0, 4), np.float32),
        "scores": np.concatenate([found[name].scores for name in names]) if names else np.zeros(0, np.float32),
        "size": np.array(size, np.int32),  # height, width; 0, 0 from a detector without masks
        "windows": np.array([window for window, _ in masks], np.int32).reshape(-1, 4),
        "bits": np.concatenate([bits for _, bits in masks]) if masks else np.zeros(0, np.uint8),
    }


def _mask_bits(objects: Detections, index: int) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """((top, bottom, left, right), bits) of one mask; an empty window where there is none or it is not kept."""
    if objects.masks is None or not objects.scores[index] > np.float32(FLOOR) or not objects.masks[index].any():
        return (0, 0, 0, 0), np.zeros(0, np.uint8)
    mask = objects.masks[index]
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = (int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1)
    return window, np.packbits(mask[window[0] : window[1], window[2] : window[3]], axis=1).ravel()


def _unpack(arrays: Mapping[str, np.ndarray], with_masks: bool) -> dict[str, Detections]:
    boxes, scores = arrays["boxes"], arrays["scores"]
    masks = _unpack_masks(arrays) if with_masks and arrays["size"].any() else None
    found, begin = {}, 0
    for name, count in zip(arrays["names"].tolist(), arrays["counts"].tolist(), strict=True):
        part = slice(begin, begin + count)
        found[name] = Detections(boxes[part], scores[part], None if masks is None else masks[part])
        begin += count
    return found


def _unpack_masks(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bool [N, H, W] of all classes one after another."""
    masks = np.zeros((len(arrays["scores"]), *arrays["size"].tolist()), bool)
    for whole, (top, left, mask) in zip(masks, _windows(arrays), strict=True):
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return masks


def _windows(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[int, int, np.ndarray]]:
    """(top, left, bool mask within its window) of each detection; the mask is empty where none is kept."""
    bits, begin = arrays["bits"], 0
    for top, bottom, left, right in arrays["windows"].tolist():
        row_bytes = -(-(right - left) // 8)
        rows = bits[begin : begin + (bottom - top) * row_bytes].reshape(bottom - top, row_bytes)
        yield top, left, np.unpackbits(rows, axis=1, count=right - left).astype(bool)
        begin += rows.size
