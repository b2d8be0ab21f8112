"""Scores many images: in memory, or a folder in GenEval's layout."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from evaluators.detection import ColorClassifier, Detector
from evaluators.geneval.crops import upright_rgb
from evaluators.geneval.metadata import PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.scoring import ImageVerdict, crop_colors, score_image
from evaluators.geneval.summary import protocol_id, summarize
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from rf_repro.core.records import EvalResult


def evaluate_images(
    images: Sequence[Image.Image],
    metadata_per_image: Sequence[dict[str, Any]],
    detector: Detector,
    classifier: ColorClassifier,
    options: GenEvalOptions,
    *,
    batch_size: int = 32,
) -> list[ImageVerdict]:
    """A verdict for each image. `batch_size` images go to the detector at once.

    Raises:
        UserError: the metadata asks for something that no image can satisfy.
        ValueError: images and metadata, or images and detector output, differ in number.
    """
    verdicts: list[ImageVerdict] = []
    pairs = [(upright_rgb(image), metadata) for image, metadata in zip(images, metadata_per_image, strict=True)]
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        detections = detector.detect([image for image, _ in batch])
        verdicts += [
            score_image(metadata, found, crop_colors(image, classifier), options)
            for (image, metadata), found in zip(batch, detections, strict=True)
        ]
    return verdicts


def evaluate_folder(
    folder: ImageFolder,
    detector: Detector,
    classifier: ColorClassifier,
    options: GenEvalOptions,
    *,
    benchmark: str = "geneval",
    step: int | None = None,
    weights: str | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[EvalResult, list[dict[str, Any]]]:
    """Scores every image that the folder's manifest lists; files it does not list are no part of the result.

    Args:
        benchmark, step, weights: recorded in the result as they are.
        batch_size: images read and sent to the detector at once.
        progress: called with (images done, images in all) after each batch.

    Returns:
        The result, and one row an image in manifest order: prompt_id, sample, seed, tag, prompt, correct, reason, failure,
        details, held_out. An image that is missing, unreadable or not the one listed (by its digest) has
        correct None, failure "unreadable" and the reason; it counts in `failures`, not in `n`.

    Raises:
        UserError: no manifest, a prompt without metadata, or metadata that no image can satisfy; before anything is scored.
    """
    entries = folder.entries()
    expected = read_json(folder.manifest_path)["expected"]
    prompts = dict(folder.prompts())
    for prompt_id in sorted({entry.prompt_id for entry in entries}):
        where = folder.path / f"{prompt_id:05d}" / "metadata.jsonl"
        if prompt_id not in prompts:
            raise UserError(f"{where}: no such file, but manifest.json lists images of this prompt; sample the folder again")
        PromptSpec.parse(prompts[prompt_id], str(where))

    rows: list[dict[str, Any]] = []
    for start in range(0, len(entries), batch_size):
        batch = entries[start : start + batch_size]
        loaded = [_load(folder, entry) for entry in batch]
        readable = [i for i, image in enumerate(loaded) if not isinstance(image, str)]
        verdicts = evaluate_images(
            [image for image in loaded if not isinstance(image, str)],
            [prompts[batch[i].prompt_id] for i in readable],
            detector, classifier, options, batch_size=batch_size,
        )  # fmt: skip
        outcome: dict[int, ImageVerdict] = dict(zip(readable, verdicts, strict=True))
        for i, entry in enumerate(batch):
            rows.append(_row(entry, prompts[entry.prompt_id], outcome.get(i), loaded[i]))
        progress(len(rows), len(entries))

    metrics, missing = summarize(rows)
    images_of = Counter((row["tag"], row["prompt"]) for row in rows)
    failures = sum(row["correct"] is None for row in rows)
    result = EvalResult(
        benchmark=benchmark,
        protocol=protocol_id(options, images_of),
        metrics=metrics,
        n=len(rows) - failures,
        expected_n=expected,
        failures=failures,
        missing=missing,
        evaluator={
            "detector": detector.name,
            "detector_revision": detector.revision,
            "color_classifier": classifier.name,
            "color_classifier_revision": classifier.revision,
        },
        step=step,
        weights=weights,
    )
    return result, rows


def _load(folder: ImageFolder, entry: SampleEntry) -> Image.Image | str:
    """The decoded image, or why there is none."""
    path = folder.image_path(entry.prompt_id, entry.sample)
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            return "the file is not the one that manifest.json lists (SHA-256 differs)"
        image = Image.open(BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
        return f"cannot read the image: {error}"
    return image


def _row(entry: SampleEntry, metadata: dict[str, Any], verdict: ImageVerdict | None, loaded: Image.Image | str) -> dict[str, Any]:
    return {
        "prompt_id": entry.prompt_id,
        "sample": entry.sample,
        "seed": entry.seed,
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": verdict.correct if verdict else None,
        "reason": verdict.reason if verdict else loaded,
        "failure": verdict.failure if verdict else "unreadable",
        "details": verdict.details if verdict else {},
        "held_out": metadata.get("held_out"),
    }
