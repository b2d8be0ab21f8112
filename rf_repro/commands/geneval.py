"""GenEval on a folder of real images: scan, self-check, detect, score, and what is written about it."""

import argparse
import base64
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.commands.options import at_least_one, progress_bar, share, tell_problems, writable_folder
from rf_repro.commands.sampled_run import SampledRun
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from rf_repro.core.records import EvalResult

if TYPE_CHECKING:
    from evaluators.colors.clip import ClipColorClassifier
    from evaluators.detection import ColorClassifier, Detector
    from evaluators.geneval.cache import Cache
    from evaluators.geneval.folder import Scan
    from evaluators.geneval.options import GenEvalOptions

FAIR_WEIGHTS = "facebook/mask2former-swin-small-coco-instance"  # other weights than GenEval's; a result names them
BATCH_SIZE, CPU_BATCH_SIZE = 16, 1  # images; on a CPU batches of 4 were slower than one at a time (LOG.md)
MASK_SIDE = 96  # pixels, of masks in the page


def run_real_images(options: argparse.Namespace, rules: "GenEvalOptions") -> int:
    """Scores `options.folder` by `rules` with a learned detector; exit status."""
    from evaluators.geneval.detect import detect_images
    from evaluators.geneval.folder import scan
    from evaluators.geneval.prompt_sets import identify, load

    out = writable_folder(options.out or options.folder, "--out")
    if options.batch_size is not None:
        at_least_one(options.batch_size, "--batch-size")
    shard = share(options.shard)
    sampled = SampledRun.open(options.run_dir, options.folder) if options.run_dir else None
    reference = load(options.prompts) if options.prompts else None
    with progress_bar("read images") as progress:
        found = scan(
            options.folder, reference, images_per_prompt=at_least_one(options.images_per_prompt, "--images-per-prompt"),
            progress=progress,
        )  # fmt: skip
    _tell_problems(found, out, options.partial)
    if sampled is not None:
        sampled.require({(image.prompt_id, image.sample): image.sha256 for image in found.images})
    prompt_set = identify([found.prompts[prompt_id] for prompt_id in sorted(found.prompts)])
    cache_root = options.cache or out / "geneval-cache"
    if options.rescore:
        cache, checked = _cached(cache_root, options)
    else:
        detector, classifier = load_models(options)
        cache = _cache(cache_root, detector, classifier)
        batch_size = options.batch_size or _default_batch_size(options.device)
        _same_batches(cache, batch_size)
        checked = {**_self_check(detector, classifier, options), "batch_size": str(batch_size)}
        write_json(cache.check_path, checked)
        with progress_bar("detect") as progress:
            detect_images(
                found.images, found.prompts, detector, classifier, cache, batch_size=batch_size, shard=shard, progress=progress
            )
    if shard != (0, 1):
        print(f"shard {shard[0] + 1} of {shard[1]} is in {cache.root}; when all are, run this command without --shard to score")
        return 0
    result, rows = _score(found, cache, rules, options, out, prompt_set, checked)
    if sampled is not None:
        print(f"recorded in the run: {sampled.record(result, rows, prompt_set)}")
    return 0


def _score(
    found: "Scan",
    cache: "Cache",
    rules: "GenEvalOptions",
    options: argparse.Namespace,
    out: Path,
    prompt_set: str,
    checked: Mapping[str, str],
) -> tuple[EvalResult, list[dict[str, Any]]]:
    from evaluators.geneval.official_results import official_summary, write_official_results
    from evaluators.geneval.score import score_folder
    from reports.folder_insight import color_confusion, failure_table, position_confusion, score_table
    from reports.folder_page import render_folder_page
    from reports.tables import plain

    with progress_bar("score") as progress:
        result, rows = score_folder(
            found, cache, rules, prompt_set=prompt_set, evaluator=checked, partial=options.partial, progress=progress
        )
    tasks = list(dict.fromkeys(row["tag"] for row in rows))
    thresholds = {task: rules.score_threshold(task) for task in tasks}
    images = {(image.prompt_id, image.sample): image for image in found.images}
    write_jsonl(out / "geneval.items.jsonl", rows)
    write_official_results(out / "results.jsonl", rows, found.prompts, lambda prompt, sample: images[prompt, sample].path)
    scores = score_table(rows, tasks)
    tables = [scores, failure_table(rows, tasks, thresholds), color_confusion(rows), position_confusion(rows)]
    page = render_folder_page(
        rows,
        [table for table in tables if table is not None],
        title=f"GenEval of {options.folder}",
        introduction=_introduction(result),
        problems=[str(problem) for problem in found.problems],
        tasks=tasks,
        thresholds=thresholds,
        image=lambda row: (images[row["prompt_id"], row["sample"]].path, *images[row["prompt_id"], row["sample"]].size),
        masks=lambda row: _masks(cache, row),
        out=out,
    )
    write_text(out / "geneval.html", page)
    write_json(out / "geneval.json", replace(result, items="geneval.items.jsonl").to_dict())
    print(official_summary(rows))
    print(f"\n{plain(scores)}\n")
    print("\n".join(_introduction(result)))
    print(f"images, boxes and reasons: {out / 'geneval.html'}")
    return result, rows


def _introduction(result: EvalResult) -> list[str]:
    seen = result.evaluator
    partial = "" if result.n == result.expected_n else "PARTIAL: "
    return [
        f"{partial}{result.n:,} of {result.expected_n:,} images scored; protocol {result.protocol}.",
        f"Detector {seen['detector']} ({seen['detector_revision']}); colours by {seen['color_classifier']} "
        f"({seen['color_classifier_revision']}); {seen['calibration']}.",
    ]


def _masks(cache: "Cache", row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Class -> base64 PNG of the mask of each box in the row's details; empty where none is kept."""
    wanted = {(name, box[4]) for name, boxes in row["details"].items() for box in boxes}
    small = cache.small_masks(row["sha256"], wanted, MASK_SIDE) if wanted else {}
    shown = {key: _png(mask) for key, mask in small.items()}
    return {name: [shown.get((name, box[4]), "") for box in boxes] for name, boxes in row["details"].items()}


def _png(mask: Any) -> str:
    """A 1-bit image as a PNG that is white where it is true and clear elsewhere, in base64."""
    buffer = BytesIO()
    mask.convert("P").save(buffer, format="PNG", transparency=0, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _tell_problems(found: "Scan", out: Path, partial: bool) -> None:
    """Lists what is amiss: all in a file, few on the screen. Raises UserError when images are missing and `partial` is false."""
    tell_problems(found.problems, out / "geneval-problems.txt")
    if len(found.images) < found.expected and not partial:
        raise UserError(
            f"{found.root}: {len(found.images)} of {found.expected} images can be scored; complete the folder, or give --partial"
            "; prompts other than GenEval's are named by --prompts"
        )


def _default_batch_size(device: str) -> int:
    from rf_repro.compute.devices import resolve_device

    return CPU_BATCH_SIZE if resolve_device(device).type == "cpu" else BATCH_SIZE


def _same_batches(cache: "Cache", batch_size: int) -> None:
    """Raises UserError when the cache was begun with another batch size, which may change the last bits of a number."""
    if cache.check_path.exists() and (begun := read_json(cache.check_path)["batch_size"]) != str(batch_size):
        raise UserError(f"{cache.root}: was begun with --batch-size {begun}; give that one, or another --cache")


def check_models(options: argparse.Namespace) -> int:
    """Checks the models, and writes the reference they are checked against if that is asked for; exit status."""
    from evaluators.geneval.self_check import calibrate

    detector, classifier = load_models(options)
    _self_check(detector, classifier, options)
    if options.calibrate:
        write_json(options.calibrate, calibrate(detector, classifier))
        print(f"{options.calibrate}: the models' answers; give it as --reference wherever they are meant to be the same")
    return 0


def _self_check(detector: "Detector", classifier: "ClipColorClassifier", options: argparse.Namespace) -> dict[str, str]:
    """What a result says of its models. Raises UserError, with every failed check and its remedy, when one fails."""
    from evaluators.geneval.self_check import self_check

    checks = self_check(detector, classifier, read_json(options.reference) if options.reference else None)
    for check in checks:
        print(f"{'ok' if check.passed else 'FAILED':<7} {check.name}: {check.message}")
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise UserError(f"self-check failed ({', '.join(failed)}): nothing is scored; see the lines above for what to do")
    return {"calibration": "calibrated" if options.reference else "not calibrated"}


def load_models(options: argparse.Namespace) -> tuple["Detector", "ClipColorClassifier"]:
    """The detector and the colour classifier that the options name.

    Raises:
        UserError: a package is missing, or weights are missing or not those of the model.
    """
    from evaluators.colors import clip
    from rf_repro.compute.devices import resolve_device

    device = str(resolve_device(options.device))
    detector: Detector
    if options.detector == "mmdet":
        from evaluators.detectors import mmdet

        if options.weights is None:
            raise UserError(
                "--detector mmdet: give --weights, OpenMMLab's Mask2Former Swin-S checkpoint (.pth); see docs/geneval.md"
            )
        detector = mmdet.load(Path(options.weights), device)
    else:
        from evaluators.detectors import mask2former

        detector = mask2former.load(options.weights or FAIR_WEIGHTS, device)
    return detector, clip.load(options.clip or clip.TAG, profile=options.profile, device=device)


def _cache(root: Path, detector: "Detector", classifier: "ColorClassifier") -> "Cache":
    from evaluators.geneval.cache import Cache, Evaluator

    return Cache(root, Evaluator.of(detector), Evaluator.of(classifier))


def _cached(root: Path, options: argparse.Namespace) -> tuple["Cache", dict[str, str]]:
    """The cache's only detector and classifier among those the options allow, and what their self-check said."""
    from evaluators.geneval.cache import Cache, known_evaluators

    pairs = [
        (detector, classifier)
        for detector, classifiers in known_evaluators(root).items()
        for classifier in classifiers
        if options.detector in detector.name and options.profile in classifier.revision
    ]
    if len(pairs) != 1:
        there = "; ".join(f"{one.name} ({one.revision}) with {two.name}" for one, two in pairs) or "none"
        raise UserError(f"{root}: --rescore needs one detector and profile there, found {there}; name others, or detect first")
    cache = Cache(root, *pairs[0])
    return cache, read_json(cache.check_path)


def compare(first: Path, second: Path) -> int:
    """Prints how two scored folders differ, by task; exit status.

    Raises:
        UserError: a folder holds no result, or their protocols differ.
    """
    from reports.folder_insight import comparison_table
    from reports.tables import plain

    paths = [folder / "geneval.json" for folder in (first, second)]
    results = [EvalResult.from_dict(read_json(path), str(path)) for path in paths]
    for name in ("protocol", "evaluator"):
        one, two = (getattr(result, name) for result in results)
        if one != two:
            raise UserError(f"{first} and {second}: another {name} ({one} and {two}); score both in the same way to compare them")
    rows = [read_jsonl(folder / str(result.items)) for folder, result in zip((first, second), results, strict=True)]
    tasks = list(dict.fromkeys(row["tag"] for row in rows[0]))
    table = comparison_table(rows[0], rows[1], tasks, (str(first), str(second)))
    print(f"{table.title}\n{plain(table)}\n{table.caption}")
    return 0
