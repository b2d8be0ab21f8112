"""`rf-repro evaluate geneval2` and `geneval-vlm`: images judged by a vision-language model, question by question."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.commands.options import Commands, add_command, progress_bars, say_recorded, share, writable_folder
from rf_repro.commands.vlm_options import add_vlm, check_vlm, judge_name, load_vlm, vlm_batch_size
from rf_repro.core.shown import say
from rf_repro.evaluations.recording import SampledRun

if TYPE_CHECKING:
    from evaluators.geneval2.options import ImageOptions
    from evaluators.results import Evaluation


def add_geneval2(benchmarks: Commands) -> None:
    parser = add_command(
        benchmarks, "geneval2", "score images of GenEval 2's 800 prompts by Soft-TIFA, with a vision-language model as the judge",
        "rf-repro evaluate geneval2 images --model Qwen/Qwen3-VL-8B-Instruct --out results",
    )  # fmt: skip
    parser.description = f"""{parser.description}

The prompts with their questions are fetched once, then a run draws an image of each:
  rf-repro data fetch geneval2
  rf-repro sample RUN --prompts geneval2 --num 1 --out images
  rf-repro evaluate geneval2 images --model Qwen/Qwen3-VL-8B-Instruct --run RUN --out results
Images of any other model, and a judge that runs elsewhere, of whose answers the 20 likeliest tokens are known and others count
as 0, which makes a GM 0:
  rf-repro evaluate geneval2 images.json --model openai:Qwen3-VL@http://node:8000/v1 --out results"""
    parser.add_argument("images", type=Path, metavar="IMAGES",
                        help="a JSON file of {prompt: image path}, or a folder that `rf-repro sample` made")  # fmt: skip
    parser.add_argument(
        "--data", default="geneval2", metavar="FILE",
        help="prompts and questions: geneval2, once fetched, or a file in its schema (default: geneval2)",
    )  # fmt: skip
    _add_common(parser, "geneval2")
    parser.set_defaults(run=run_geneval2)


def add_geneval_vlm(benchmarks: Commands) -> None:
    parser = add_command(
        benchmarks, "geneval-vlm",
        "score images of GenEval's prompts by questions to a vision-language model; the result is not GenEval's score",
        "rf-repro evaluate geneval-vlm images --prompts official --model Qwen/Qwen3-VL-8B-Instruct --out results",
    )  # fmt: skip
    parser.description = f"""{parser.description}

Eight processes that share the work, then the score:
  rf-repro evaluate geneval-vlm images --model Qwen/Qwen3-VL-8B-Instruct --out results --shard 1/8   (to 8/8)
  rf-repro evaluate geneval-vlm images --model Qwen/Qwen3-VL-8B-Instruct --out results"""
    parser.add_argument("images", type=Path, metavar="IMAGES",
                        help="a folder in GenEval's layout: 00000/metadata.jsonl, 00000/samples/0000.png and on")  # fmt: skip
    parser.add_argument("--prompts", metavar="SET",
                        help="prompt set the folder must hold: official, bagel-long (see `rf-repro data fetch`) or a file "
                        "(default: GenEval's 553, by the folder's own metadata)")  # fmt: skip
    parser.add_argument("--images-per-prompt", type=int, default=4, metavar="N", help="images of each prompt (default: 4)")
    _add_common(parser, "geneval-vlm")
    parser.set_defaults(run=run_geneval_vlm)


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help=f"folder for {name}.json, a row an image in {name}.items.jsonl, and the replies, from which a "
                        "stopped evaluation goes on")  # fmt: skip
    parser.add_argument("--run", dest="run_dir", type=Path, metavar="RUN",
                        help="also record the result in this run directory, which the images were sampled from, for `rf-repro "
                        "report` (default: do not)")  # fmt: skip
    parser.add_argument("--partial", action="store_true", help="score what is there, and mark the result as partial")
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N",
        help="ask the I-th of N shares only; without it, all shares found in DIR count (default: 1/1)",
    )  # fmt: skip
    add_vlm(parser)


def run_geneval2(options: argparse.Namespace) -> int:
    """Asks all questions about the images and scores the replies; exit status."""
    from evaluators import geneval2

    common, sampled = _common(options)
    return _run(options, geneval2, geneval2.Options(**common, data=options.data), sampled)


def run_geneval_vlm(options: argparse.Namespace) -> int:
    """The same for GenEval's prompts."""
    from evaluators import geneval_vlm

    common, sampled = _common(options)
    settings = geneval_vlm.Options(**common, prompts=options.prompts, images_per_prompt=options.images_per_prompt)
    return _run(options, geneval_vlm, settings, sampled)


def _common(options: argparse.Namespace) -> tuple[dict[str, Any], SampledRun | None]:
    """(what both benchmarks' options have in common, the run that the images are of)."""
    check_vlm(options)
    out = writable_folder(options.out, "--out")
    sampled = SampledRun.open(options.run_dir, options.images)
    common = {
        "model": lambda: load_vlm(options), "name": judge_name(options.model), "batch_size": vlm_batch_size(options), "out": out,
        "digests": sampled.digests() if sampled else None, "partial": options.partial,
    }  # fmt: skip
    return common, sampled


def _run(options: argparse.Namespace, benchmark: Any, settings: "ImageOptions", sampled: SampledRun | None) -> int:
    """Asks, and unless it is a share of the questions prints the scores; exit status."""
    shard = share(options.shard)
    with progress_bars() as progress:
        if shard == (0, 1):
            result = benchmark.evaluate(options.images, settings, progress=progress, tell=print)
        else:
            failed = benchmark.evaluate_share(options.images, settings, shard, progress=progress, tell=print)
    if shard != (0, 1):
        failures = f"; {failed} questions failed and are asked again then" if failed else ""
        say(f"share {options.shard} is in {options.out}; when all are, run this command without --shard to score{failures}")
        return 0
    _print(result, options.out)
    if sampled is not None:
        say_recorded(sampled.record_judged(result))
    return 0


def _print(result: "Evaluation", out: Path) -> None:
    judge, name = result.evaluator["judge"], result.benchmark
    title = "GenEval 2" if name == "geneval2" else f"{name}({judge})"
    say(f"{title}, judged by {judge} ({result.evaluator['judge_revision']})")
    for metric, value in result.metrics.items():
        if not metric.endswith(("_low", "_high")):
            say(f"{metric:<24}{_shown(result, metric, value)}")
    partial = "" if result.n == result.expected_n else "PARTIAL: "
    say(f"{partial}{result.n:,} of {result.expected_n:,} images scored; protocol {result.protocol}; {out / f'{name}.json'}")


def _shown(result: "Evaluation", metric: str, value: float | None) -> str:
    if value is None:
        return f"not measured: {result.missing[metric]}"
    low, high = result.metrics.get(f"{metric}_low"), result.metrics.get(f"{metric}_high")
    return f"{value:.4f}" + ("" if low is None or high is None else f"  [{low:.4f}, {high:.4f}]")
