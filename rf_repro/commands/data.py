"""`rf-repro data`: prompt sets, fetched and verified, or rewritten by a language model."""

import argparse
from pathlib import Path

from rf_repro.commands.options import Commands, add_command, add_device, at_least_one, progress_bar, writable_folder
from rf_repro.core.errors import UserError

SETS = ("official", "bagel-long", "all")


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "data", "fetch or rewrite prompt sets", "rf-repro data fetch geneval")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_fetch(actions)
    _add_rewrite(actions)


def _add_fetch(actions: Commands) -> None:
    parser = add_command(actions, "fetch", "download a benchmark's prompts and verify their SHA-256",
                         "rf-repro data fetch geneval --set official")  # fmt: skip
    parser.add_argument("benchmark", choices=("geneval",), help="geneval: its own 553 prompts, and BAGEL's rewritten ones")
    parser.add_argument("--set", dest="prompt_set", choices=SETS, default="all", help="which of them (default: all)")
    parser.add_argument(
        "--from", dest="source", metavar="SOURCE",
        help="a file, or a folder with the files under their own names, or an address (default: the published addresses)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to put them in (default: ~/.cache/rf_repro/geneval)")
    parser.set_defaults(run=run_fetch)


def run_fetch(options: argparse.Namespace) -> int:
    from evaluators.geneval.prompt_sets import PROMPT_SETS, default_folder, fetch

    folder = writable_folder(options.out or default_folder(), "--out")
    names = list(PROMPT_SETS) if options.prompt_set == "all" else [options.prompt_set]
    if options.source is not None and len(names) > 1 and not Path(options.source).is_dir():
        raise UserError(f"--from {options.source}: is not a folder, so it cannot hold {len(names)} sets; name one by --set")
    for name in names:
        with progress_bar(name) as progress:
            path = fetch(PROMPT_SETS[name], folder, options.source, progress)
        print(f"{name:<12}{path}  SHA-256 verified")
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
    from rf_repro.pipeline import resolve_device

    model = load_chat_model(options.model, resolve_device(options.device), max_new_tokens)
    with progress_bar("rewrite") as progress:
        rewritten = rewrite(rows, model, template, options.out, batch_size=batch_size, progress=progress)
    print(f"{options.out}  {len(rewritten.rows)} prompts, set {identify(rewritten.rows)}")
    if rewritten.cut:
        print(f"{rewritten.cut} of them were cut at --max-new-tokens {max_new_tokens}; a larger value lets them end")
    return 0
