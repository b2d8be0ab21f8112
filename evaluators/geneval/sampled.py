"""Scores images as a sampler made them: in memory, or a folder whose manifest lists them."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from evaluators.detection import ColorClassifier, Detector
from evaluators.geneval.crops import upright_rgb
from evaluators.geneval.metadata import PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.score import make_result, models_of, verdict_row
from evaluators.geneval.scoring import ImageVerdict, crop_colors, score_image
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from rf_repro.core.records import EvalResult
from rf_repro.core.untrusted.image_header import decoded_image
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, CorruptSample


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
    expected = folder.manifest()["expected"]
    prompts = dict(folder.prompts())
    for prompt_id in sorted({entry.prompt_id for entry in entries}):
        where = folder.path / f"{prompt_id:05d}" / "metadata.jsonl"
        if prompt_id not in prompts:
            raise UserError(f"{where}: no such file, but manifest.json lists images of this prompt; sample the folder again")
        PromptSpec.parse(prompts[prompt_id], str(where))

    rows: list[dict[str, Any]] = []
    for start in range(0, len(entries), batch_size):
        batch = entries[start : start + batch_size]
        loaded = [load_listed(folder, entry) for entry in batch]
        readable = [i for i, image in enumerate(loaded) if not isinstance(image, str)]
        verdicts = evaluate_images(
            [image for image in loaded if not isinstance(image, str)],
            [prompts[batch[i].prompt_id] for i in readable],
            detector, classifier, options, batch_size=batch_size,
        )  # fmt: skip
        outcome: dict[int, ImageVerdict] = dict(zip(readable, verdicts, strict=True))
        for i, entry in enumerate(batch):
            metadata, reason = prompts[entry.prompt_id], loaded[i]
            verdict = verdict_row(metadata, reason if isinstance(reason, str) else outcome[i])
            place = {"prompt_id": entry.prompt_id, "sample": entry.sample, "seed": entry.seed}
            rows.append({**place, **verdict, "held_out": metadata.get("held_out")})
        progress(len(rows), len(entries))

    images_of = Counter((row["tag"], row["prompt"]) for row in rows)
    result = make_result(
        rows, options, images_of, models_of(detector, classifier), benchmark=benchmark, expected_n=expected, step=step,
        weights=weights,
    )  # fmt: skip
    return result, rows


def load_listed(folder: ImageFolder, entry: SampleEntry) -> Image.Image | str:
    """The decoded image that a manifest lists, or why there is none."""
    path = folder.image_path(entry.prompt_id, entry.sample)
    try:
        data = read_bytes(path, MAX_IMAGE_BYTES)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            return "the file is not the one that manifest.json lists (SHA-256 differs)"
        return decoded_image(data)
    except (UserError, CorruptSample) as error:
        return f"cannot read the image: {error}"
