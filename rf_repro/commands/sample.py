"""`rf-repro sample`: images of a trained run for prompts of one's own."""

import argparse
from pathlib import Path

from rf_repro.commands.options import Commands, add_command, add_device, at_least_one, numbers, progress_bar, writable_folder
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "sample", "draw images from a trained run, with its EMA weights",
                         'rf-repro sample runs/tiny/pixel_rf/0123456789ab-s0 --prompt "a photo of a red circle" --num 4 '
                         "--out samples")  # fmt: skip
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory, e.g. a path that `rf-repro plan` prints")
    parser.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="TEXT",
        help="what to draw, in the words of the training captions; may be repeated",
    )
    parser.add_argument("--num", type=int, default=4, metavar="N", help="images a prompt (default: 4)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the images, in GenEval's layout")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="sampling seed (default: 0)")
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    run_dir = RunDir(options.run_dir)
    if not run_dir.record_path.exists():
        raise UserError(f"{options.run_dir}: is not a run directory (no run.json); `rf-repro plan` prints their paths")
    at_least_one(options.num, "--num")
    (seed,) = numbers(str(options.seed), "--seed")
    writable_folder(options.out, "--out")
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"--out {options.out}: is not empty; name a new folder")
    from rf_repro.pipeline import sample_prompts

    with progress_bar("sample") as progress:
        folder = sample_prompts(
            run_dir, options.prompt, options.num, options.out, seed=seed, device=options.device, progress=progress
        )
    for entry in folder.entries():
        print(folder.image_path(entry.prompt_id, entry.sample))
    return 0
