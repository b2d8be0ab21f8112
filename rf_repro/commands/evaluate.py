"""`rf-repro evaluate`: scores a folder of images that is already there."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rf_repro.commands.dpg import add_dpg
from rf_repro.commands.flags import speak_flags
from rf_repro.commands.geneval import check_only, compare, run_real_images
from rf_repro.commands.geneval2 import add_geneval2, add_geneval_vlm
from rf_repro.commands.options import Commands, add_command, add_device, progress_bar, say_recorded, writable_folder
from rf_repro.commands.understanding import add_understanding
from rf_repro.config.overrides import config_of
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.results import write_result
from rf_repro.core.run_dir import RunDir
from rf_repro.core.shown import say
from rf_repro.evaluations.recording import SampledRun

if TYPE_CHECKING:
    from evaluators.geneval.options import GenEvalOptions


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "evaluate", "score a folder of images, or a model's answers", "rf-repro evaluate geneval images --out results"
    )
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    _add_geneval(benchmarks)
    add_geneval2(benchmarks)
    add_geneval_vlm(benchmarks)
    add_dpg(benchmarks)
    add_understanding(benchmarks)
    for parser in benchmarks.choices.values():
        speak_flags(parser)
    both = add_command(benchmarks, "compare", "compare two scored folders on the same prompts",
                       "rf-repro evaluate compare results-a results-b")  # fmt: skip
    both.add_argument("first", type=Path, metavar="DIR", help="--out of one `evaluate geneval`")
    both.add_argument("second", type=Path, metavar="DIR", help="--out of the other, whose gain is shown")
    both.set_defaults(run=lambda options: compare(options.first, options.second))


def _add_geneval(benchmarks: Commands) -> None:
    geneval = add_command(
        benchmarks, "geneval", "score images in GenEval's folder layout by GenEval's rules",
        "rf-repro evaluate geneval images --detector transformers --out results",
    )  # fmt: skip
    geneval.add_argument("folder", type=Path, nargs="?", metavar="FOLDER",
                         help="holds 00000/metadata.jsonl, 00000/samples/0000.png and on")  # fmt: skip
    geneval.add_argument("--out", type=Path, metavar="DIR", help="folder for the results and the cache (default: FOLDER)")
    geneval.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the rules: threshold, counting_threshold, max_overlap (fractions), max_objects (objects), "
        "position_threshold (object sizes); may be repeated (default: GenEval's own)",
    )  # fmt: skip
    models = geneval.add_argument_group("who looks")
    models.add_argument(
        "--detector", default="transformers", choices=("transformers", "mmdet", "scenes"),
        help="transformers: Mask2Former, installed by pip alone; mmdet: the official one; scenes: exact, for the procedural "
        "world (default: transformers)",
    )  # fmt: skip
    models.add_argument(
        "--weights",
        metavar="PATH",
        help="the detector's weights: a folder, a checkpoint, or a name on the hub (default: FAIR's for transformers, none for "
        "mmdet)",
    )
    models.add_argument("--clip", metavar="PATH", help="weights of CLIP ViT-L/14 (default: open_clip's download of `openai`)")
    models.add_argument(
        "--profile", default="geneval-2023", choices=("geneval-2023", "unpinned-2025"),
        help="CLIP's activation, QuickGELU as in 2023 or GELU as of open_clip 2.29 on (default: geneval-2023)",
    )  # fmt: skip
    add_device(models)
    models.add_argument(
        "--batch-size", type=int, metavar="N", help="images at once (default: 16 on a GPU, 1 on a CPU, which gains nothing)"
    )
    models.add_argument(
        "--reference", type=Path, metavar="FILE", help="what --calibrate wrote, to check the models against (default: none)"
    )
    models.add_argument("--self-check", action="store_true", help="check the models and stop; every scoring does it first")
    models.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="write the models' answers as a reference, and stop (default: none)"
    )
    models.add_argument(
        "--scale", metavar="NAME", help="scenes: whose world it is (default: --run's, else the run's FOLDER is in, or tiny)"
    )
    geneval.add_argument(
        "--run", dest="run_dir", type=Path, metavar="RUN",
        help="also record the result in this run directory, which the images were sampled from, for `rf-repro report` "
        "(default: do not)",
    )  # fmt: skip
    which = geneval.add_argument_group("which images")
    which.add_argument("--prompts", metavar="SET", help="prompt set the folder must hold: official, bagel-long (see "
                       "`rf-repro data fetch`) or a file (default: GenEval's 553, by the folder's own metadata)")  # fmt: skip
    which.add_argument("--images-per-prompt", type=int, default=4, metavar="N", help="images of each prompt (default: 4)")
    which.add_argument("--partial", action="store_true", help="score what is there, and mark the result as partial")
    which.add_argument("--shard", default="1/1", metavar="I/N", help="look at the I-th of N shares only (default: 1/1, all)")
    which.add_argument("--cache", type=Path, metavar="DIR", help="what was seen, by image hash (default: OUT/geneval-cache)")
    which.add_argument("--rescore", action="store_true", help="apply the rules to what is in the cache, without a model")
    geneval.set_defaults(run=run_geneval)


def run_geneval(options: argparse.Namespace) -> int:
    settings = {}
    for text in options.option:
        name, separator, value = text.partition("=")
        if not separator or name in settings:
            raise UserError(f"--option {text!r}: must be NAME=VALUE, each name once")
        settings[name] = value
    from evaluators.geneval.options import GenEvalOptions

    rules = GenEvalOptions.from_mapping(settings)
    if options.self_check or options.calibrate:
        return check_only(options)
    if options.folder is None:
        raise UserError("evaluate geneval: name the FOLDER of images; --self-check and --calibrate alone need none")
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder of images")
    return SCORERS.get(options.detector, run_real_images)(options, rules)


def run_scenes(options: argparse.Namespace, rules: "GenEvalOptions") -> int:
    """Scores images of the procedural world, which a manifest lists."""
    from evaluators.geneval.official_results import write_official_results
    from rf_repro.evaluations.scenes import SCENES, score_scenes

    folder, out = ImageFolder(options.folder), writable_folder(options.out or options.folder, "--out")
    sampled = SampledRun.open(options.run_dir, options.folder)
    with progress_bar("evaluate") as progress:
        result = score_scenes(folder, _config(options).data.scenes, rules, progress)
    write_official_results(out / "results.jsonl", result.rows, dict(folder.prompts()), folder.image_path)
    record = write_result(out, "geneval", result, result.rows)
    for name, value in result.metrics.items():
        say(f"{name:<24}{'not measured: ' + result.missing.get(name, '') if value is None else f'{value:.4f}'}")
    say(f"{result.n} of {result.expected_n} images scored, {result.failures} failed; {record}")
    if sampled is not None:
        say_recorded(sampled.record_geneval(result, SCENES))
    return 0


SCORERS = {"scenes": run_scenes}  # by --detector; all others look at photographs


def _config(options: argparse.Namespace) -> ExperimentConfig:
    beside = RunDir(options.run_dir or options.folder.resolve().parent)
    if options.scale is None and beside.config_path.exists():
        return config_of(beside)
    return get_scale(options.scale or "tiny")
