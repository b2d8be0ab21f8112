"""The models' part of GenEval: what is in each image, and in which colours. Fills the cache from which `score` judges.

The unit of work is a batch. Batches depend on the folder alone: images of one size, in the folder's order. Shards take
whole batches, and a batch that was interrupted is done again, so an image meets the same companions whatever the number of
shards or interruptions, and its numbers come out the same to the bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from PIL import Image

from evaluators.detection import ColorClassifier, Detections, Detector
from evaluators.geneval.cache import Cache, candidates
from evaluators.geneval.crops import object_crops
from evaluators.geneval.folder import ImageFile, decode
from evaluators.geneval.metadata import PromptSpec
from rf_repro.core.errors import UserError

DECODED_AHEAD = 2  # batches
DECODERS = 4  # threads


def colored_classes(metadata: Mapping[str, Any]) -> list[str]:
    """Classes of whose objects the prompt asks a colour."""
    spec = PromptSpec.parse(dict(metadata), "metadata")
    return sorted({clause.class_name for clause in spec.include if clause.color is not None})


def batches(images: Sequence[ImageFile], batch_size: int) -> list[list[ImageFile]]:
    """Up to `batch_size` images of one size each, in order of their first image."""
    of_size: dict[tuple[int, int], list[ImageFile]] = {}
    for image in images:
        of_size.setdefault(image.size, []).append(image)
    parts = [group[i : i + batch_size] for group in of_size.values() for i in range(0, len(group), batch_size)]
    return sorted(parts, key=lambda part: (part[0].prompt_id, part[0].sample))


def require_known_classes(prompts: Mapping[int, Mapping[str, Any]], detector: Detector) -> None:
    """Raises UserError when a prompt names a class that the detector never reports: it would score 0 without a word."""
    known = set(detector.class_names)
    for prompt_id, metadata in prompts.items():
        spec = PromptSpec.parse(dict(metadata), f"prompt {prompt_id}")
        for clause in (*spec.include, *spec.exclude):
            if clause.class_name not in known:
                raise UserError(
                    f"prompt {prompt_id}: detector {detector.name} has no class {clause.class_name!r} among its {len(known)}; "
                    "use the benchmark's own class names, or another detector"
                )


def detect_images(
    images: Sequence[ImageFile],
    prompts: Mapping[int, Mapping[str, Any]],
    detector: Detector,
    classifier: ColorClassifier,
    cache: Cache,
    *,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Completes the cache for this shard's images; what is there already is left alone.

    Args:
        prompts: prompt id -> metadata, which says of which classes colours are asked.
        shard: (i, n), the i-th of n shares, counted from 0.
        progress: called with (images done, images of this shard).

    Raises:
        UserError: a prompt asks for a class the detector does not know, or a file changed meanwhile.
    """
    require_known_classes(prompts, detector)
    cache.begin()
    mine = batches(images, batch_size)[shard[0] :: shard[1]]
    total = sum(len(batch) for batch in mine)
    classes = {prompt_id: colored_classes(metadata) for prompt_id, metadata in prompts.items()}
    open_batches = [b for b in mine if not all(cache.has(image.sha256, classes[image.prompt_id]) for image in b)]
    done = total - sum(len(batch) for batch in open_batches)
    progress(done, total)
    for batch, pixels in _decoded_ahead(open_batches):
        found = _detections(batch, pixels, detector, cache)
        _write_colors(batch, pixels, found, classes, classifier, cache)
        done += len(batch)
        progress(done, total)


def _detections(
    batch: Sequence[ImageFile], pixels: Sequence[Image.Image], detector: Detector, cache: Cache
) -> list[dict[str, Detections]]:
    """What the detector sees, from the cache where all of the batch is there."""
    if all(cache.detections_path(image.sha256).exists() for image in batch):
        return [cache.detections(image.sha256, masks=True) for image in batch]
    found = detector.detect(pixels)
    for image, objects in zip(batch, found, strict=True):
        cache.write_detections(image.sha256, objects)
    return found


def _write_colors(
    batch: Sequence[ImageFile],
    pixels: Sequence[Image.Image],
    found: Sequence[dict[str, Detections]],
    classes: Mapping[int, Sequence[str]],
    classifier: ColorClassifier,
    cache: Cache,
) -> None:
    """Asks the classifier once about all candidates of the batch."""
    crops: list[Image.Image] = []
    names: list[str] = []
    asked: list[list[tuple[str, int]]] = []  # of each image: (class, index) of each crop
    for image, shown, objects in zip(batch, pixels, found, strict=True):
        asked.append([(name, i) for name in classes[image.prompt_id] if name in objects for i in candidates(objects[name])])
        for name in dict.fromkeys(name for name, _ in asked[-1]):
            crops += object_crops(shown, objects[name].take([i for other, i in asked[-1] if other == name]))
        names += [name for name, _ in asked[-1]]
    colors = iter(classifier.classify(crops, names) if crops else [])
    for image, keys in zip(batch, asked, strict=True):
        if not classes[image.prompt_id]:
            continue
        known: dict[str, dict[int, str]] = {}
        for name, i in keys:
            known.setdefault(name, {})[i] = next(colors)
        cache.write_colors(image.sha256, classes[image.prompt_id], known)


def _decoded_ahead(work: Sequence[list[ImageFile]]) -> Iterator[tuple[list[ImageFile], list[Image.Image]]]:
    """Each batch with its images; the next batches are decoded meanwhile."""
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting: list[tuple[list[ImageFile], list[Future[Image.Image]]]] = []
        for batch in work:
            waiting.append((batch, [pool.submit(decode, image) for image in batch]))
            if len(waiting) > DECODED_AHEAD:
                first, futures = waiting.pop(0)
                yield first, [future.result() for future in futures]
        for first, futures in waiting:
            yield first, [future.result() for future in futures]
