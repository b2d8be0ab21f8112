"""`rf-repro export`: the language model inside a trained run, as a checkpoint that `transformers` loads."""

import argparse
from pathlib import Path

from rf_repro.commands.options import Commands, add_command, writable_folder
from rf_repro.core.run_dir import RunDir
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "export", "write the language model inside a run as a Qwen3 checkpoint",
                         "rf-repro export runs/base/pixel_rf/0123456789ab-s0 --out qwen3-rf")  # fmt: skip
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory, e.g. a path that `rf-repro plan` prints")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for weights, config and tokenizer")
    parser.add_argument("--raw", action="store_true", help="the weights of the last step (default: their moving averages)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    writable_folder(options.out, "--out")
    run_dir = RunDir.open(options.run_dir)
    from rf_repro.config.overrides import config_of
    from rf_repro.experiment.load import last_checkpoint
    from rf_repro.model.hf_export import export_backbone
    from rf_repro.train.checkpoint import load_weights
    from rf_repro.worlds import world_of

    config = config_of(run_dir)
    weights = load_weights(last_checkpoint(run_dir), ema=not options.raw)
    export_backbone(weights, config.model.decoder, options.out)
    world_of(config).export_tokenizer(config, options.out)
    say(options.out)
    return 0
