"""GenEval on a folder of real images, and what is shown of it."""

import argparse
import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.commands.options import progress_bars, say_recorded, share, writable_folder
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl, write_json, write_text
from rf_repro.core.records import ITEM, EvalResult
from rf_repro.core.shown import say
from rf_repro.evaluations.recording import SampledRun

if TYPE_CHECKING:
    from evaluators.geneval import FolderEvaluation, GenEvalOptions, Options
    from evaluators.geneval.cache import Cache

MASK_SIDE = 96  # pixels, of masks in the page


def run_real_images(options: argparse.Namespace, rules: "GenEvalOptions") -> int:
    """Scores `options.folder` by `rules` with a learned detector; exit status."""
    from evaluators import geneval

    out = writable_folder(options.out or options.folder, "--out")
    shard, sampled = share(options.shard), SampledRun.open(options.run_dir, options.folder)
    settings = _settings(options, rules, out, sampled)
    with progress_bars() as progress:
        if shard == (0, 1):
            result = geneval.evaluate(options.folder, settings, progress=progress, tell=print)
        else:
            geneval.evaluate_share(options.folder, settings, shard, progress=progress, tell=print)
    if shard != (0, 1):
        where = settings.cache_folder
        say(f"shard {shard[0] + 1} of {shard[1]} is in {where}; when all are, run this command without --shard to score")
        return 0
    _show(result, rules, str(options.folder), out)
    if sampled is not None:
        say_recorded(sampled.record_geneval(result, result.prompt_set))
    return 0


def _settings(options: argparse.Namespace, rules: "GenEvalOptions", out: Path, sampled: SampledRun | None = None) -> "Options":
    from evaluators.geneval import Options

    return Options(
        rules=rules,
        detector=options.detector,
        weights=options.weights,
        clip=options.clip,
        profile=options.profile,
        device=options.device,
        batch_size=options.batch_size,
        reference=options.reference,
        prompts=options.prompts,
        images_per_prompt=options.images_per_prompt,
        digests=sampled.digests() if sampled else None,
        partial=options.partial,
        rescore=options.rescore,
        out=out,
        cache=options.cache,
    )


def _show(result: "FolderEvaluation", rules: "GenEvalOptions", folder: str, out: Path) -> None:
    """Prints the scores, and writes the page of every image."""
    from evaluators.geneval.official_results import official_summary
    from reports.folder_insight import color_confusion, failure_table, position_confusion, score_table
    from reports.folder_page import render_folder_page
    from reports.tables import plain

    rows, images, cache = result.rows, result.scan.by_place, result.cache
    assert cache is not None  # there is a folder to keep it in
    tasks = list(dict.fromkeys(row["tag"] for row in rows))
    thresholds = {task: rules.score_threshold(task) for task in tasks}
    scores = score_table(rows, tasks)
    tables = [scores, failure_table(rows, tasks, thresholds), color_confusion(rows), position_confusion(rows)]
    page = render_folder_page(
        rows,
        [table for table in tables if table is not None],
        title=f"GenEval of {folder}",
        introduction=_introduction(result),
        problems=[str(problem) for problem in result.problems],
        tasks=tasks,
        thresholds=thresholds,
        image=lambda row: (images[row["prompt_id"], row["sample"]].path, *images[row["prompt_id"], row["sample"]].size),
        masks=lambda row: _masks(cache, row),
        out=out,
    )
    write_text(out / "geneval.html", page)
    say(*official_summary(rows).split("\n"))
    say("", *plain(scores).split("\n"), "")
    say(*_introduction(result))
    say(f"images, boxes and reasons: {out / 'geneval.html'}")


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


def check_only(options: argparse.Namespace) -> int:
    """Checks the models, and writes the reference they are checked against if that is asked for; exit status."""
    from evaluators.geneval.models import check_models, load_classifier, load_detector
    from evaluators.geneval.self_check import calibrate

    detector = load_detector(options.detector, options.weights, options.device)
    classifier = load_classifier(options.clip, options.profile, options.device)
    check_models(detector, classifier, options.reference, print)
    if options.calibrate:
        write_json(options.calibrate, calibrate(detector, classifier))
        say(f"{options.calibrate}: the models' answers; give it as --reference wherever they are meant to be the same")
    return 0


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
    rows = [read_jsonl(folder / str(result.items), ITEM) for folder, result in zip((first, second), results, strict=True)]
    tasks = list(dict.fromkeys(row["tag"] for row in rows[0]))
    table = comparison_table(rows[0], rows[1], tasks, (str(first), str(second)))
    say(table.title, *plain(table).split("\n"), table.caption)
    return 0
