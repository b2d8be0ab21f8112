"""`--model` and what goes with it, for every benchmark that asks a vision-language model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.vlm.options import BATCH_SIZE, CPU_BATCH_SIZE, ENDPOINT_BATCH_SIZE, default_batch_size, model_name
from rf_repro.commands.options import add_device, at_least_one
from rf_repro.core.run_dir import RunDir

if TYPE_CHECKING:
    from evaluators.vlm.protocol import VisionLanguageModel


def add_vlm(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, required: bool = True, max_new_tokens: int | None = None
) -> None:
    """Adds the options that `load_vlm` reads.

    Args:
        required: of `--model`.
        max_new_tokens: the benchmark's default; None: it asks for probabilities alone, and there is no such option.
    """
    parser.add_argument(
        "--model", required=required, metavar="MODEL",
        help="who answers: a run directory of this project; a folder or a hub id of a transformers image-text-to-text model; or "
        "openai:NAME@http://HOST:PORT/v1, an OpenAI-compatible endpoint, whose key is read from RF_REPRO_API_KEY or "
        "OPENAI_API_KEY",
    )  # fmt: skip
    add_device(parser)
    parser.add_argument(
        "--batch-size", type=int, metavar="N",
        help=f"questions at once (default: {BATCH_SIZE} on a GPU, {CPU_BATCH_SIZE} on a CPU, {ENDPOINT_BATCH_SIZE} at an "
        "endpoint)",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="requests to an endpoint at the same time (default: 8)"
    )
    parser.add_argument(
        "--reply-cache", type=Path, metavar="DIR",
        help="folder that keeps an endpoint's replies, by the hash of the request (default: none)",
    )  # fmt: skip
    if max_new_tokens is not None:
        parser.add_argument(
            "--max-new-tokens", type=int, default=max_new_tokens, metavar="N",
            help=f"length at which an answer is cut, in tokens (default: {max_new_tokens})",
        )  # fmt: skip


def load_vlm(options: argparse.Namespace) -> "VisionLanguageModel":
    """The model of `--model`. A folder with a run.json is a run of this project.

    Raises:
        UserError: it cannot be loaded, or an option is out of its range.
    """
    check_vlm(options)
    run = RunDir(Path(options.model))
    if run.record_path.exists():
        from rf_repro.core.devices import resolve_device
        from rf_repro.experiment.vlm import load_rf_vlm

        return load_rf_vlm(run, resolve_device(options.device))
    from evaluators.vlm.options import load_vlm as load

    return load(options.model, options.device, concurrency=options.concurrency, reply_cache=options.reply_cache)


def check_vlm(options: argparse.Namespace) -> None:
    """Raises UserError when an option is out of its range; loads nothing."""
    at_least_one(options.concurrency, "--concurrency")
    if options.batch_size is not None:
        at_least_one(options.batch_size, "--batch-size")
    if getattr(options, "max_new_tokens", None) is not None:
        at_least_one(options.max_new_tokens, "--max-new-tokens")


def vlm_batch_size(options: argparse.Namespace) -> int:
    """`--batch-size`, or the default where the model is."""
    if options.batch_size is not None:
        return at_least_one(options.batch_size, "--batch-size")
    return default_batch_size(options.model, options.device)


def judge_name(spec: str) -> str:
    """What a result calls the model of `--model`: no machine's paths and no addresses."""
    run = RunDir(Path(spec))
    if not run.record_path.exists():
        return model_name(spec)
    record = run.record()
    return f"{record.variant}/{record.config_hash[:12]}-s{record.seed}"
