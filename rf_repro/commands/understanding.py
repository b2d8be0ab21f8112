"""`rf-repro evaluate understanding`: the eight understanding benchmarks of the paper's Tables 2 and 3e."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.problems import SHOWN
from rf_repro.commands.options import Commands, add_command, at_least_one, progress_bars, say_recorded, share, writable_folder
from rf_repro.commands.vlm_options import add_vlm, check_vlm, load_vlm, vlm_batch_size
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.core.shown import say
from rf_repro.evaluations.recording import open_run, record

if TYPE_CHECKING:
    from evaluators.understanding import BenchmarkEvaluation

NAMES = "mmmu, hallusionbench, mme, blink, realworldqa, ai2d, docvqa, chartqa"
EXAMPLE = "rf-repro evaluate understanding --benchmarks mmmu,mme --model Qwen/Qwen3-VL-8B-Instruct --data hub --out results"
OTHERS = """

A run of this project, recorded for its report, and a model behind an endpoint:
  rf-repro evaluate understanding --benchmarks all --model RUN --data DATA --out results --run RUN
  rf-repro evaluate understanding --benchmarks chartqa --model openai:NAME@http://HOST:PORT/v1 --data ChartQA_TEST.tsv \\
      --protocol vlmevalkit --out results"""


def add_understanding(benchmarks: Commands) -> None:
    parser = add_command(
        benchmarks, "understanding", "ask a vision-language model the understanding benchmarks of Table 2", EXAMPLE
    )
    parser.description = f"{parser.description}{OTHERS}"
    parser.add_argument(
        "--benchmarks", required=True, metavar="NAMES",
        help=f"by comma: {NAMES}; or all, which are these; or ai2d_mask, AI2D with its labels covered",
    )  # fmt: skip
    add_vlm(parser)
    parser.add_argument(
        "--data", required=True, metavar="WHERE",
        help="a folder with a folder of .parquet or .arrow files, or a file, for each benchmark, by its name or VLMEvalKit's "
        "(mmmu/, mmmu.parquet, MMMU_DEV_VAL.tsv); of one benchmark, its own folder or file; hub, to download; or hub:ID",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for replies, items and results; an interrupted run resumes"
    )
    parser.add_argument(
        "--protocol", default="lmms-eval", metavar="NAME",
        help="whose prompts: lmms-eval, vlmevalkit, or bagel for mmmu and mme (default: lmms-eval); replies are scored by every "
        "harness's rules whatever it is",
    )  # fmt: skip
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="tokens an answer may have (default: the protocol's for the benchmark)"
    )
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N",
        help="ask the I-th of N shares of the questions only; when all are done, a run without it scores (default: 1/1, all)",
    )  # fmt: skip
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="ask the first N questions only: a trial, not the benchmark's number (default: all)",
    )
    parser.add_argument(
        "--run", dest="run_dir", type=Path, metavar="RUN",
        help="also record the results in this run directory, which --model names too, for `rf-repro report` (default: do not)",
    )  # fmt: skip
    parser.set_defaults(run=run_understanding)


def run_understanding(options: argparse.Namespace) -> int:
    from ablations.questions import benchmark_evaluation
    from evaluators import understanding

    out, shard = writable_folder(options.out, "--out"), share(options.shard)
    check_vlm(options)
    if options.limit is not None:
        at_least_one(options.limit, "--limit")
    run = _run(options) if options.run_dir else None
    settings = understanding.Options(
        model=lambda: load_vlm(options), batch_size=vlm_batch_size(options), out=out, data=options.data,
        protocol=options.protocol, max_new_tokens=options.max_new_tokens, limit=options.limit,
    )  # fmt: skip
    asked = understanding.read_benchmarks(options.benchmarks, settings)
    settings = replace(settings, model=load_vlm(options))  # once, for all of them
    results = []
    for one in asked:
        name = one.benchmark.name
        with progress_bars() as progress:
            if shard == (0, 1):
                result = understanding.evaluate(one, settings, progress=progress)
            else:
                understanding.evaluate_share(one, settings, shard, progress=progress)
        if shard != (0, 1):
            say(f"{name}: share {shard[0] + 1} of {shard[1]} is in {out}; when all are, run without --shard to score")
            continue
        results.append(result)
        _tell(one.benchmark.title, result, out)
        if run is not None:
            say_recorded(record(run, benchmark_evaluation(name), result, step=run.record().steps, weights="ema"))
    if len(results) > 1:
        _summary(results)
    return 0


def _run(options: argparse.Namespace) -> RunDir:
    """The run to record in. Raises UserError when it is none, not trained to its end, or not the model."""
    run, config = open_run(options.run_dir, "question suite")
    if Path(options.model).resolve() != options.run_dir.resolve():
        raise UserError(f"--run {options.run_dir}: --model names another model, {options.model}; name the run by both")
    if options.limit is not None:
        raise UserError(f"--limit {options.limit}: is a trial, and a run's record is of whole benchmarks; leave out one of "
                        "--limit and --run")  # fmt: skip
    if (steps := run.record().steps) != config.stages[-1].steps:
        raise UserError(
            f"--run {options.run_dir}: is at step {steps} of {config.stages[-1].steps}; a record is of its end: train it first"
        )
    return run


def _tell(title: str, result: "BenchmarkEvaluation", out: Path) -> None:
    """Every variant of every metric, and what is amiss."""
    partial = "" if result.metrics["paper"] is not None else "INCOMPLETE: "
    say(f"{title}: {partial}{result.n:,} of {result.expected_n:,} questions scored; protocol {result.protocol}")
    for variant, values in by_variant(result.metrics).items():
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items() if value is not None)
        say(f"  {variant:<23} {shown or 'not measured'}")
    paper = result.metrics["paper"]
    say(f"  {'paper':<23} {result.missing['paper'] if paper is None else f'{paper:.4f}'}")
    say(f"  paper is {result.evaluator['paper']}")
    for problem in result.unread[:SHOWN]:
        say(f"  problem: {problem}")
    say(f"  {out / f'{result.benchmark}.json'}, a row a question in {out / f'{result.benchmark}.items.jsonl'}")


def by_variant(metrics: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Variant -> metric -> value, of metrics named `variant/metric` or `parse_failure_rate/variant`."""
    found: dict[str, dict[str, float | None]] = {}
    for name, value in metrics.items():
        variant, _, metric = name.partition("/")
        if variant == "parse_failure_rate":
            found.setdefault(metric, {})[variant] = value
        elif metric:
            found.setdefault(variant, {})[metric] = value
    return found


def _summary(results: Sequence[EvalResult]) -> None:
    """The number for the paper's column of each benchmark."""
    say(f"{'benchmark':<18}{'questions':>16}  for the paper's column")
    for result in results:
        value = result.metrics["paper"]
        shown = f"{value:.4f}" if value is not None else result.missing["paper"]
        say(f"{result.benchmark:<18}{f'{result.n:,} of {result.expected_n:,}':>16}  {shown}")
