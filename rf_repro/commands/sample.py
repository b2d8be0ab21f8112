"""`rf-repro sample`: images of a trained run, for prompts of one's own or a published prompt set."""

import argparse
import re
from pathlib import Path
from typing import Any

from rf_repro.commands.options import (
    Commands,
    add_command,
    add_device,
    at_least_one,
    numbers,
    progress_bar,
    share,
    writable_folder,
)
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "sample", "draw images from a trained run, with its EMA weights",
                         'rf-repro sample runs/tiny/pixel_rf/0123456789ab-s0 --prompt "a photo of a red circle" --num 4 '
                         "--out samples")  # fmt: skip
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory, e.g. a path that `rf-repro plan` prints")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--prompt", action="append", metavar="TEXT",
        help="what to draw, in the words of the training captions; may be repeated (default: none, --prompts then)",
    )  # fmt: skip
    which.add_argument(
        "--prompts", metavar="SET",
        help="a prompt set: official, bagel-long, geneval2, dpg (see `rf-repro data fetch`), or a file of GenEval metadata or of "
        "GenEval 2's schema (default: none, --prompt then)",
    )  # fmt: skip
    parser.add_argument("--num", type=int, default=4, metavar="N", help="images a prompt (default: 4)")
    parser.add_argument(
        "--size",
        metavar="PIXELS",
        help="side of the images, or HxW, e.g. 768x1024 (default: 256, or less if the run draws less)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder for the images, in GenEval's layout: new, or one to resume")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="sampling seed (default: 0)")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="images at once (default: the config's, less where images are large)")  # fmt: skip
    parser.add_argument("--shard", default="1/1", metavar="I/N",
                        help="draw the I-th of N shares only, one process each (default: 1/1, all)")  # fmt: skip
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    run_dir = RunDir.open(options.run_dir)
    at_least_one(options.num, "--num")
    (seed,) = numbers(str(options.seed), "--seed")
    size, shard = image_size(options.size), share(options.shard)
    if options.batch_size is not None:
        at_least_one(options.batch_size, "--batch-size")
    folder = ImageFolder(writable_folder(options.out, "--out"))
    if not folder.is_free() and not folder.origin_path.exists():
        raise UserError(f"--out {options.out}: is not empty; name a new folder")
    prompts = _prompts(options)
    from rf_repro.experiment.sampling import sample_prompts

    with progress_bar("sample") as progress:
        folder = sample_prompts(
            run_dir, prompts, options.num, options.out, seed=seed, device=options.device, progress=progress, size=size,
            shard=shard, batch_size=options.batch_size,
        )  # fmt: skip
    if not folder.is_complete():
        say(f"share {options.shard} is in {folder.path}; the folder is complete when all shares are")
    elif options.prompts:
        say(f"{len(folder.entries()):,} images of {len(prompts)} prompts in {folder.path}")
    else:
        for entry in folder.entries():
            say(folder.image_path(entry.prompt_id, entry.sample))
    return 0


def _prompts(options: argparse.Namespace) -> list[str] | list[dict[str, Any]]:
    if options.prompts is None:
        found: list[str] = options.prompt
        return found
    if options.prompts == "dpg":
        from evaluators.dpg import data

        return data.prompt_rows(data.load())
    from evaluators.geneval.prompt_sets import load
    from evaluators.geneval2.data import sampling_rows

    return sampling_rows(options.prompts) or load(options.prompts)


def image_size(text: str | None) -> tuple[int, int] | None:
    """`"256"` -> (256, 256), `"768x1024"` -> (768, 1024): height, width."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", text)
    if found is None:
        raise UserError(f"--size {text!r}: must be a side in pixels, or HxW, for example 256 or 768x1024")
    return int(found[1]), int(found[2] or found[1])
