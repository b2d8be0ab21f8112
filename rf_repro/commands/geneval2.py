"""`rf-repro evaluate geneval2` and `geneval-vlm`: images judged by a vision-language model, question by question."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.commands.options import Commands, add_command, at_least_one, progress_bar, share, tell_problems, writable_folder
from rf_repro.commands.sampled_run import SampledRun
from rf_repro.commands.vlm_options import ENDPOINT, add_vlm, check_vlm, load_vlm, vlm_batch_size
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_json, write_jsonl
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir

if TYPE_CHECKING:
    from evaluators.geneval.folder import Scan


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
    from evaluators.geneval2.data import NAME, identify, load
    from evaluators.geneval2.images import find_images
    from evaluators.geneval2.judge import evaluator, judge_images, score, score_lists

    out, shard = _check(options)
    sampled = SampledRun.open(options.run_dir, options.images) if options.run_dir else None
    items = load(options.data)
    data = identify(items, options.data)
    with progress_bar("read images") as progress:
        found = find_images(options.images, items, progress)
    _tell_problems(found, out / f"{NAME}-problems.txt", options.partial)
    _require_sampled(sampled, found)
    model, batch_size = load_vlm(options), vlm_batch_size(options)
    with progress_bar(NAME) as progress:
        replies = judge_images(
            found, items, model, out / f"{NAME}.replies.jsonl", data=data, batch_size=batch_size, shard=shard, progress=progress
        )
    if shard != (0, 1):
        return _tell_shard(options, len(replies.failures))
    judge = evaluator(judge_name(options.model), model, batch_size)
    result, rows = score(found, items, replies, data=data, judge=judge, partial=options.partial)
    if result.n == result.expected_n:
        write_json(out / f"{NAME}-score-lists.json", score_lists(rows))
    return _Scored(result, rows, "GenEval 2").keep(out, sampled)


def run_geneval_vlm(options: argparse.Namespace) -> int:
    """The same for GenEval's prompts."""
    from evaluators.geneval.folder import scan
    from evaluators.geneval.prompt_sets import identify, load
    from evaluators.geneval2.judge import evaluator
    from evaluators.geneval_vlm.judge import NAME, judge_images, score

    out, shard = _check(options)
    per_prompt = at_least_one(options.images_per_prompt, "--images-per-prompt")
    sampled = SampledRun.open(options.run_dir, options.images) if options.run_dir else None
    reference = load(options.prompts) if options.prompts else None
    with progress_bar("read images") as progress:
        found = scan(options.images, reference, images_per_prompt=per_prompt, progress=progress)
    _tell_problems(found, out / f"{NAME}-problems.txt", options.partial)
    _require_sampled(sampled, found)
    prompt_set = identify([found.prompts[prompt_id] for prompt_id in sorted(found.prompts)])
    model, batch_size = load_vlm(options), vlm_batch_size(options)
    with progress_bar(NAME) as progress:
        replies = judge_images(
            found, model, out / f"{NAME}.replies.jsonl", prompt_set=prompt_set, batch_size=batch_size, shard=shard,
            progress=progress,
        )  # fmt: skip
    if shard != (0, 1):
        return _tell_shard(options, len(replies.failures))
    judge = evaluator(judge_name(options.model), model, batch_size)
    result, rows = score(found, replies, prompt_set=prompt_set, judge=judge, partial=options.partial)
    return _Scored(result, rows, f"{NAME}({judge['judge']})").keep(out, sampled)


def judge_name(spec: str) -> str:
    """What a result calls the model of `--model`: no machine's paths and no addresses."""
    if spec.startswith(ENDPOINT):
        return spec.removeprefix(ENDPOINT).rpartition("@")[0]
    run = RunDir(Path(spec))
    if run.record_path.exists():
        record = run.record()
        return f"{record.variant}/{record.config_hash[:12]}-s{record.seed}"
    return Path(spec).resolve().name if Path(spec).is_dir() else spec


@dataclass(frozen=True)
class _Scored:
    result: EvalResult
    rows: Sequence[dict[str, Any]]
    title: str

    def keep(self, out: Path, sampled: SampledRun | None) -> int:
        """Writes record and rows, into the run too, and prints the numbers; exit status."""
        name, result = self.result.benchmark, self.result
        items = f"{name}.items.jsonl"
        write_jsonl(out / items, list(self.rows))
        write_json(out / f"{name}.json", replace(result, items=items).to_dict())
        print(f"{self.title}, judged by {result.evaluator['judge']} ({result.evaluator['judge_revision']})")
        for metric, value in result.metrics.items():
            if not metric.endswith(("_low", "_high")):
                print(f"{metric:<24}{self._shown(metric, value)}")
        partial = "" if result.n == result.expected_n else "PARTIAL: "
        print(f"{partial}{result.n:,} of {result.expected_n:,} images scored; protocol {result.protocol}; {out / f'{name}.json'}")
        if sampled is not None:
            print(f"recorded in the run: {sampled.record_judged(result, self.rows)}")
        return 0

    def _shown(self, metric: str, value: float | None) -> str:
        if value is None:
            return f"not measured: {self.result.missing[metric]}"
        low, high = self.result.metrics.get(f"{metric}_low"), self.result.metrics.get(f"{metric}_high")
        return f"{value:.4f}" + ("" if low is None or high is None else f"  [{low:.4f}, {high:.4f}]")


def _check(options: argparse.Namespace) -> tuple[Path, tuple[int, int]]:
    """Folder for the results, and share; what is wrong with the options is found before anything is read."""
    check_vlm(options)
    return writable_folder(options.out, "--out"), share(options.shard)


def _tell_problems(found: "Scan", path: Path, partial: bool) -> None:
    """Lists what is amiss: all in a file, few on the screen. Raises UserError when images are missing and `partial` is false."""
    tell_problems(found.problems, path)
    if len(found.images) < found.expected and not partial:
        raise UserError(
            f"{found.root}: {len(found.images)} of {found.expected} images can be scored; complete them, or give --partial"
        )
    if not found.images:
        raise UserError(f"{found.root}: none of {found.expected} images can be scored")


def _require_sampled(sampled: SampledRun | None, found: "Scan") -> None:
    if sampled is not None:
        sampled.require({(image.prompt_id, image.sample): image.sha256 for image in found.images})


def _tell_shard(options: argparse.Namespace, failed: int) -> int:
    failures = f"; {failed} questions failed and are asked again then" if failed else ""
    print(f"share {options.shard} is in {options.out}; when all are, run this command without --shard to score{failures}")
    return 0
