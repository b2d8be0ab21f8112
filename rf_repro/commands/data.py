"""`rf-repro data`: prompt sets, fetched and verified, or rewritten by a language model; the scenes world as shards;
what shards hold."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rf_repro.commands.data_inspect import add_inspect
from rf_repro.commands.flags import speak_flags
from rf_repro.commands.options import (
    Commands,
    add_command,
    add_device,
    add_scale,
    add_set,
    at_least_one,
    overrides,
    progress_bar,
    writable_folder,
)
from rf_repro.config.data_schema import DataConfig
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say

SETS = ("official", "bagel-long", "all")


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "data", "fetch or rewrite prompt sets, write scenes as shards, inspect shards", "rf-repro data fetch geneval"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_fetch(actions)
    _add_rewrite(actions)
    _add_scenes(actions)
    add_inspect(actions)


def _add_fetch(actions: Commands) -> None:
    parser = add_command(actions, "fetch", "download a benchmark's prompts and verify their SHA-256",
                         "rf-repro data fetch geneval --set official")  # fmt: skip
    parser.add_argument(
        "benchmark", choices=("geneval", "geneval2", "dpg"),
        help="geneval: its own 553 prompts, and BAGEL's rewritten ones; geneval2: GenEval 2's 800 prompts with their questions "
        "(CC BY-NC 4.0); dpg: DPG-Bench's 1,065 prompts with their questions (Apache-2.0)",
    )  # fmt: skip
    parser.add_argument("--set", dest="prompt_set", choices=SETS, default="all", help="which of geneval's (default: all)")
    parser.add_argument(
        "--from", dest="source", metavar="SOURCE",
        help="a file, or a folder with the files under their own names, or an address (default: the published addresses)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to put them in (default: ~/.cache/rf_repro/BENCHMARK)")
    parser.set_defaults(run=run_fetch)
    speak_flags(parser)


def run_fetch(options: argparse.Namespace) -> int:
    if options.benchmark == "geneval2":
        return _fetch_geneval2(options)
    if options.benchmark == "dpg":
        return _fetch_dpg(options)
    from evaluators.geneval.prompt_sets import PROMPT_SETS, default_folder, fetch

    folder = writable_folder(options.out or default_folder(), "--out")
    names = list(PROMPT_SETS) if options.prompt_set == "all" else [options.prompt_set]
    if options.source is not None and len(names) > 1 and not Path(options.source).is_dir():
        raise UserError(f"--from {options.source}: is not a folder, so it cannot hold {len(names)} sets; name one by --set")
    for name in names:
        with progress_bar(name) as progress:
            path = fetch(PROMPT_SETS[name], folder, options.source, progress)
        say(f"{name:<12}{path}  SHA-256 verified")
    return 0


def _fetch_geneval2(options: argparse.Namespace) -> int:
    from evaluators.geneval2.data import NAME, data_folder, fetch

    if options.prompt_set != "all":
        raise UserError(f"--set {options.prompt_set}: is a set of geneval's; leave it out")
    folder = writable_folder(options.out or data_folder(), "--out")
    with progress_bar(NAME) as progress:
        path = fetch(folder, options.source, progress)
    say(f"{NAME:<12}{path}  SHA-256 verified")
    return 0


def _fetch_dpg(options: argparse.Namespace) -> int:
    from evaluators.dpg.data import compare_prompts, default_folder, fetch, load

    if options.prompt_set != "all":
        raise UserError(f"--set {options.prompt_set}: is a set of geneval's; leave it out")
    with progress_bar("dpg") as progress:
        path = fetch(writable_folder(options.out or default_folder(), "--out"), options.source, progress)
    benchmark = load(path)
    say(f"{'dpg':<12}{path}  git's hash verified, {len(benchmark.items):,} prompts, {len(benchmark.rows):,} questions")
    for folder in (Path(options.source or ".") / "prompts", Path(options.source or ".") / "dpg_bench" / "prompts"):
        if options.source and folder.is_dir() and (other := compare_prompts(benchmark, folder)):
            say(f"{folder}: {len(other):,} prompts are not as in the CSV, whose texts are used; first {other[0]}")
    return 0


def _add_rewrite(actions: Commands) -> None:
    parser = add_command(actions, "rewrite", "rewrite the prompts of a set by a chat model, greedily; an interrupted run resumes",
                         "rf-repro data rewrite prompts.jsonl --model Qwen/Qwen3-4B --out prompts_long.jsonl")  # fmt: skip
    parser.add_argument("prompts", metavar="PROMPTS", help="JSON-lines file in GenEval's format, or official, once fetched")
    parser.add_argument("--model", required=True, metavar="MODEL", help="a chat model of transformers: folder or hub name")
    parser.add_argument("--template", type=Path, metavar="FILE", help="a text with {prompt}: what to ask (default: built in)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON-lines file for the rewritten set")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="tokens a rewrite may have (default: 256)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="prompts rewritten at once (default: 8)")
    add_device(parser)
    parser.set_defaults(run=run_rewrite)
    speak_flags(parser)


def run_rewrite(options: argparse.Namespace) -> int:
    max_new_tokens = at_least_one(options.max_new_tokens, "--max-new-tokens")
    batch_size = at_least_one(options.batch_size, "--batch-size")
    writable_folder(options.out.parent, "--out")
    from evaluators.geneval.prompt_sets import identify, load
    from evaluators.rewriter.rewrite import cache_path, rewrite
    from evaluators.rewriter.template import read_template

    cache_path(options.out)  # a mistake is found before a model is loaded
    rows = load(options.prompts)
    template = read_template(options.template)
    from evaluators.rewriter.chat_model import load_chat_model
    from rf_repro.compute.devices import resolve_device

    model = load_chat_model(options.model, resolve_device(options.device), max_new_tokens)
    with progress_bar("rewrite") as progress:
        rewritten = rewrite(rows, model, template, options.out, batch_size=batch_size, progress=progress)
    say(f"{options.out}  {len(rewritten.rows)} prompts, set {identify(rewritten.rows)}")
    if rewritten.cut:
        say(f"{rewritten.cut} of them were cut at --max-new-tokens {max_new_tokens}; a larger value lets them end")
    return 0


def _add_scenes(actions: Commands) -> None:
    parser = add_command(actions, "scenes", "write the scenes world as shards of real data's formats; a stopped run resumes",
                         "rf-repro data scenes --out data/scenes --num 10000 --format parquet")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the shards of one task")
    parser.add_argument("--num", type=int, required=True, metavar="N", help="samples to write")
    parser.add_argument("--format", choices=("webdataset", "parquet", "jsonl"), default="webdataset",
                        help="tar files, Hugging Face's Parquet, or JSON lines beside images (default: webdataset)")  # fmt: skip
    parser.add_argument("--task", choices=("generation", "understanding", "text"), default="generation",
                        help="captions with images, questions about images, or captions alone (default: generation)")  # fmt: skip
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="samples a shard (default: 1000)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="index of the first scene (default: 0)")
    parser.add_argument("--image-size", type=int, default=0, metavar="PIXELS",
                        help="pixels a side of the stored images (default: as drawn, data.scenes.image_size)")  # fmt: skip
    add_scale(parser)
    add_set(parser)
    parser.set_defaults(run=run_scenes)


@dataclass(frozen=True)
class _Scale:
    """The part of an experiment that scenes depend on, under the same names."""

    data: DataConfig


def run_scenes(options: argparse.Namespace) -> int:
    from rf_repro.config.overrides import apply_overrides
    from rf_repro.config.scales import get_scale

    changes = overrides(options.set)
    if foreign := [path for path in changes if not path.startswith("data.scenes.")]:
        raise UserError(f"--set {foreign[0]}: has no effect on scenes; only data.scenes.* has")
    # Not the whole experiment's config: scenes for real data's loaders need not fit the scale's own model.
    config = apply_overrides(_Scale(get_scale(options.scale).data), changes).data.scenes
    writable_folder(options.out, "--out")
    from rf_repro.data.scenes_shards import ScenesExport, export_scenes

    export = ScenesExport(
        config, options.num, options.start, options.format, options.task, options.shard_size, options.image_size
    )
    with progress_bar(options.task) as progress:
        written = export_scenes(export, options.out, progress)
    total = len(export.shards(options.out))
    say(f"# {options.out}  {options.num} samples, {total} shards, {total - written} of them were there already")
    say(*_source_snippet(options.out, options.format, options.task).splitlines())
    return 0


def _source_snippet(folder: Path, shard_format: str, task: str) -> str:
    """YAML of the source, as `data.sources` has it."""
    import yaml

    source = {"name": f"scenes-{task}", "path": str(folder.absolute()), "format": shard_format, "task": task}
    return yaml.safe_dump({"sources": [source]}, sort_keys=False)
