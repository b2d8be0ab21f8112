"""GenEval on a folder of any model's images: scan, self-check, detect, score."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaluators.detection import ColorClassifier, Detector
from evaluators.devices import Device, device_of
from evaluators.fields import at_least_one, check_fields
from evaluators.geneval.cache import Cache, Evaluator, known_evaluators
from evaluators.geneval.detect import detect_images
from evaluators.geneval.folder import IMAGES_PER_PROMPT, Scan, scan
from evaluators.geneval.models import check_models, load_classifier, load_detector
from evaluators.geneval.official_results import write_official_results
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.prompt_sets import identify, load
from evaluators.geneval.score import score_folder
from evaluators.problems import report_problems
from evaluators.results import ALL, Evaluation, Progress, Share, Tell, counting, kept_in, no_progress, not_told
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_object, write_json

NAME = "geneval"
BATCH_SIZE, CPU_BATCH_SIZE = 16, 1  # images; on a CPU batches of 4 were slower than one at a time (LOG.md)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Who looks, at which images, by which rules, and what is kept of it.

    Args:
        rules: the benchmark's five settings; other values than the defaults are another protocol.
        detector: an object, or `transformers` (Mask2Former, installed by pip alone) or `mmdet` (the official one).
        weights: of a detector by name: a folder, a checkpoint, or a name on the hub (default: FAIR's, for transformers).
        classifier: names colours (default: CLIP ViT-L/14).
        clip: weights of CLIP (default: open_clip's download of OpenAI's).
        profile: CLIP's activation: `geneval-2023`, QuickGELU, or `unpinned-2025`, GELU as of open_clip 2.29 on.
        device: of models by name: auto, cpu, cuda or mps.
        batch_size: images at once (default: 16 on a GPU, 1 on a CPU, which gains nothing).
        self_check: models look at drawn images first, and nothing is scored if they see what cannot be. For a classifier
            without logits it must be off.
        reference: what `evaluators.geneval.self_check.calibrate` recorded of these models, as JSON; None: the result says `not
            calibrated`.
        prompts: the set that the folder must hold: `official`, `bagel-long`, a file, or its rows in order (default: GenEval's 553
            prompts, by the folder's own metadata).
        images_per_prompt: images of each prompt.
        digests: (prompt id, sample) -> SHA-256 that each image must have; None: any will do.
        partial: score what is there, and say in the result that it is not all.
        rescore: apply the rules to what the cache holds; no model is loaded.
        out: folder for the result, its items, the list of problems and the cache; None: nothing is left behind.
        cache: folder of what was seen, by image hash, from which a stopped evaluation goes on (default: OUT/geneval-cache).

    Raises:
        UserError: a field is not what it must be.
    """

    rules: GenEvalOptions = field(default_factory=GenEvalOptions)
    detector: Detector | Literal["transformers", "mmdet"] = "transformers"
    weights: Path | str | None = None
    classifier: ColorClassifier | None = None
    clip: Path | str | None = None
    profile: Literal["geneval-2023", "unpinned-2025"] = "geneval-2023"
    device: Device = "auto"
    batch_size: int | None = None
    self_check: bool = True
    reference: Path | str | None = None
    prompts: Path | str | Sequence[dict[str, Any]] | None = None
    images_per_prompt: int = IMAGES_PER_PROMPT
    digests: Mapping[tuple[int, int], str] | None = None
    partial: bool = False
    rescore: bool = False
    out: Path | str | None = None
    cache: Path | str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        at_least_one(self, "batch_size", "images_per_prompt")

    @property
    def cache_folder(self) -> Path | None:
        """Where what was seen is kept; None: nowhere that outlives the evaluation."""
        return Path(self.cache) if self.cache else Path(self.out) / "geneval-cache" if self.out else None

    def load_models(self) -> tuple[Detector, ColorClassifier]:
        """Raises UserError: a package is missing, or weights are missing or not those of the model."""
        detector = self.detector
        if isinstance(detector, str):
            detector = load_detector(detector, self.weights, self.device)
        return detector, self.classifier or load_classifier(self.clip, self.profile, self.device)

    @property
    def images_at_once(self) -> int:
        """`batch_size`, or its default."""
        return self.batch_size or (CPU_BATCH_SIZE if device_of(self.device).type == "cpu" else BATCH_SIZE)


@dataclass(frozen=True, kw_only=True)
class FolderEvaluation(Evaluation):
    """GenEval's result on a folder.

    Attributes:
        scan: the images and their prompts.
        prompt_set: name of the prompts.
        cache: what was seen in the images; None where nothing was to be left behind.
    """

    scan: Scan
    prompt_set: str
    cache: Cache | None


@dataclass(frozen=True)
class _Seen:
    scan: Scan
    prompt_set: str
    cache: Cache
    checked: Mapping[str, str]  # what the result says of the self-check


def evaluate(
    images: Path | str, options: Options | None = None, *, progress: Progress = no_progress, tell: Tell = not_told
) -> FolderEvaluation:
    """Scores a folder of images in GenEval's layout: 00000/metadata.jsonl, 00000/samples/0000.png and on.

    With `options.out` it writes there `geneval.items.jsonl` (an image a line), `results.jsonl` (the official format) and
    `geneval.json` (the result), and `geneval-problems.txt` where something is amiss with the files.

    Args:
        progress: called with what is being done, how much of it is done, and how much there is.
        tell: called with lines on what is amiss and on what the self-check said.

    Returns:
        The result. Its rows are an image each; see `evaluators.geneval.score.score_folder`.

    Raises:
        UserError: the folder does not hold what it should and `partial` is off, a model cannot be loaded or fails the self-check,
            or the cache was begun in another way.
    """
    options = options or Options()
    with _looked(Path(images), options, ALL, progress, tell) as seen:
        result, rows = score_folder(
            seen.scan, seen.cache, options.rules, prompt_set=seen.prompt_set, evaluator=seen.checked, partial=options.partial,
            progress=counting(progress, "score"),
        )  # fmt: skip
    scored = FolderEvaluation.of(
        result, rows, problems=seen.scan.problems, scan=seen.scan, prompt_set=seen.prompt_set,
        cache=seen.cache if options.cache_folder else None,
    )  # fmt: skip
    if options.out is None:
        return scored
    place = seen.scan.by_place
    write_official_results(
        Path(options.out) / "results.jsonl", rows, seen.scan.prompts, lambda prompt, sample: place[prompt, sample].path
    )
    return scored.write(Path(options.out), NAME)


def evaluate_share(
    images: Path | str, options: Options, share: Share, *, progress: Progress = no_progress, tell: Tell = not_told
) -> None:
    """Looks at one of several shares of the images, into the cache; `evaluate` scores when all have been looked at.

    Args:
        share: (index, count).

    Raises:
        UserError: as `evaluate`, or there is no cache to look into.
    """
    if options.cache_folder is None:
        raise UserError("cache=None: a share of the images needs a folder to keep what is seen; give cache or out")
    with _looked(Path(images), options, share, progress, tell):
        pass


def find_images(images: Path, options: Options, progress: Progress, tell: Tell) -> Scan:
    """What there is to score. Raises UserError when that is not what there should be."""
    if not images.is_dir():
        raise UserError(f"{images}: no such folder of images")
    reference = load(str(options.prompts)) if isinstance(options.prompts, Path | str) else options.prompts
    found = scan(
        images, reference, images_per_prompt=options.images_per_prompt, progress=counting(progress, "read images")
    )  # fmt: skip
    report_problems(found.problems, Path(options.out) / "geneval-problems.txt" if options.out else None, tell)
    if len(found.images) < found.expected and not options.partial:
        raise UserError(
            f"{found.root}: {len(found.images)} of {found.expected} images can be scored; complete the folder, or give "
            "partial=True; prompts other than GenEval's are named by prompts=SET"
        )
    found.require_same(options.digests)
    return found


@contextmanager
def _looked(images: Path, options: Options, share: Share, progress: Progress, tell: Tell) -> Iterator[_Seen]:
    """The cache with this share of the images in it, as long as the block lasts."""
    found = find_images(images, options, progress, tell)
    prompt_set = identify([found.prompts[prompt_id] for prompt_id in sorted(found.prompts)])
    with kept_in(options.cache_folder) as root:
        if options.rescore:
            cache = _known(root, options)
            checked: dict[str, str] = read_object(cache.check_path, others=str)
        else:
            detector, classifier = options.load_models()
            cache = Cache(root, Evaluator.of(detector), Evaluator.of(classifier))
            batch_size = options.images_at_once
            _require_same_batches(cache, batch_size)
            said = {"calibration": "not checked"}
            if options.self_check:
                said = check_models(detector, classifier, options.reference, tell)
            checked = {**said, "batch_size": str(batch_size)}
            write_json(cache.check_path, checked)
            detect_images(
                found.images, found.prompts, detector, classifier, cache, batch_size=batch_size, shard=share,
                progress=counting(progress, "detect"),
            )  # fmt: skip
        yield _Seen(found, prompt_set, cache, checked)


def _require_same_batches(cache: Cache, batch_size: int) -> None:
    """Raises UserError when the cache was begun with another batch size, which may change the last bits of a number."""
    if cache.check_path.exists() and (begun := read_object(cache.check_path, others=str)["batch_size"]) != str(batch_size):
        raise UserError(f"{cache.root}: was begun with batch_size={begun}; give that one, or another cache=FOLDER")


def _known(root: Path, options: Options) -> Cache:
    """The cache of the only detector and classifier that are in it, among those that the options allow."""
    kind = options.detector if isinstance(options.detector, str) else options.detector.name
    revision = options.profile if options.classifier is None else options.classifier.revision
    pairs = [
        (detector, classifier)
        for detector, classifiers in known_evaluators(root).items()
        for classifier in classifiers
        if kind in detector.name and revision in classifier.revision
    ]
    if len(pairs) != 1:
        there = "; ".join(f"{one.name} ({one.revision}) with {two.name}" for one, two in pairs) or "none"
        raise UserError(f"{root}: rescore=True needs one detector and profile there, found {there}; name others, or detect first")
    return Cache(root, *pairs[0])
