"""`rf-repro evaluate`: scores a folder of images that is already there."""

import argparse
from dataclasses import replace
from pathlib import Path

from rf_repro.commands.options import Commands, add_command, progress_bar, writable_folder
from rf_repro.config.overrides import from_dict
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_json, write_jsonl
from rf_repro.core.image_folder import ImageFolder


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "evaluate", "score a folder of images", "rf-repro evaluate geneval images --detector scenes")
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    geneval = add_command(benchmarks, "geneval", "score images in GenEval's folder layout by GenEval's rules",
                          "rf-repro evaluate geneval runs/tiny/pixel/0123456789ab-s0/samples --detector scenes")  # fmt: skip
    geneval.add_argument("folder", type=Path, metavar="FOLDER", help="holds 00000/metadata.jsonl, 00000/samples/0000.png and on")
    geneval.add_argument("--detector", required=True, choices=("scenes",), help="scenes: exact, for the procedural world")
    geneval.add_argument(
        "--scale", metavar="NAME", help="scale whose world the images show (default: that of the run FOLDER is in, else tiny)"
    )
    geneval.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the rules: threshold, counting_threshold, max_overlap (fractions), max_objects (objects), "
        "position_threshold (object sizes); may be repeated (default: GenEval's own)",
    )  # fmt: skip
    geneval.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for geneval.json, its items, and the official results.jsonl (default: FOLDER)",
    )
    geneval.set_defaults(run=run_geneval)


def run_geneval(options: argparse.Namespace) -> int:
    folder, out = ImageFolder(options.folder), options.out or options.folder
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder of images")
    writable_folder(out, "--out")
    scenes = _config(options).data.scenes
    settings = {}
    for text in options.option:
        name, separator, value = text.partition("=")
        if not separator or name in settings:
            raise UserError(f"--option {text!r}: must be NAME=VALUE, each name once")
        settings[name] = value
    from evaluators.geneval.evaluate import evaluate_folder
    from evaluators.geneval.official_results import write_official_results
    from evaluators.geneval.options import GenEvalOptions
    from evaluators.scenes.colors import SceneColorClassifier
    from evaluators.scenes.detector import SceneDetector

    rules = GenEvalOptions.from_mapping(settings)
    with progress_bar("evaluate") as progress:
        result, items = evaluate_folder(
            folder, SceneDetector(scenes), SceneColorClassifier(scenes), rules,
            benchmark=f"geneval-{options.detector}", progress=progress,
        )  # fmt: skip
    write_jsonl(out / "geneval.items.jsonl", items)
    write_official_results(out / "results.jsonl", items, dict(folder.prompts()), folder.image_path)
    write_json(out / "geneval.json", replace(result, items="geneval.items.jsonl").to_dict())
    for name, value in result.metrics.items():
        print(f"{name:<24}{'not measured: ' + result.missing.get(name, '') if value is None else f'{value:.4f}'}")
    print(f"{result.n} of {result.expected_n} images scored, {result.failures} failed; {out / 'geneval.json'}")
    return 0


def _config(options: argparse.Namespace) -> ExperimentConfig:
    beside = options.folder.resolve().parent / "config.json"
    if options.scale is None and beside.exists():
        return from_dict(read_json(beside))
    return get_scale(options.scale or "tiny")
