"""What sampling and answering cost, as tables for people or as JSON for programs."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say
from rf_repro.data.packing import Size
from rf_repro.estimate.gpus import GPU, GPUS
from rf_repro.estimate.inference import (
    ANSWER_TOKENS,
    BANDWIDTH_SHARE,
    LAUNCH_SECONDS,
    QUESTION_TOKENS,
    READ_BYTES,
    ActionName,
    InferenceEstimate,
    estimate_action,
)
from rf_repro.estimate.parameters import count_by_pool
from rf_repro.estimate.plan import DEFAULT_MFU
from rf_repro.estimate.show import PLAIN_WIDTH, _hours, _table
from rf_repro.model.spaces import space_of
from rf_repro.worlds import world_of

# Prompts, images of each, tokens of a prompt (assumed: about their mean).
PROMPT_SETS = {"GenEval": (553, 4, 16), "DPG-Bench": (1065, 4, 110)}
QUESTIONS = 1000
ASSUMED = (
    f"matrix products reach {DEFAULT_MFU:g} of the GPU's peak, as in training; tokens one by one {BANDWIDTH_SHARE:g} of its "
    f"bandwidth, but a decoder block takes at least {LAUNCH_SECONDS * 1e3:g} ms, in which Python launches its kernels",
    "experts are chosen evenly and independently; batches are full; decoding latents costs what encoding them does",
    f"a process reads {READ_BYTES / 1e9:g} GB a second of a checkpoint, all of which it checks once; a page cache is faster",
    f"memory by action is for prompts of data.caption_tokens; a question has {QUESTION_TOKENS} tokens and an image of the size, "
    f"an answer {ANSWER_TOKENS}; prompts of {' and '.join(f'{name} {tokens}' for name, (_, _, tokens) in PROMPT_SETS.items())}",
    "2 GB a GPU for CUDA; images are judged by other models, which are not counted",
)


@dataclass(frozen=True)
class Row:
    """An action of a run. `name`: of a prompt set, or of what is shown in detail; `count`: images or questions."""

    name: str
    action: ActionName
    size: Size
    count: int
    text_tokens: int | None
    estimate: InferenceEstimate

    def as_json(self) -> dict[str, Any]:
        estimate = self.estimate
        return {
            "name": self.name, "action": self.action, "size": list(self.size), "count": self.count, "batch": estimate.batch,
            "phases": estimate.phases, "device_bytes": estimate.device_bytes, "host_bytes": estimate.host_bytes,
            "fits": estimate.fits, "seconds_each": estimate.seconds / self.count, "loading_seconds": estimate.loading_seconds,
            "hours": estimate.hours, "by_pool": {pool: vars(phase) for pool, phase in estimate.by_pool.items()},
        }  # fmt: skip


def rows_of(config: ExperimentConfig, gpu: GPU) -> tuple[list[Row], list[Row]]:
    """One batch or so of each action, for the longest texts; and whole sets of prompts.

    Raises:
        UserError: something does not fit the GPU even pool by pool.
    """
    largest = (config.max_image_size, config.max_image_size)
    actions = [_row("answering", config, gpu, "answer", largest, QUESTIONS)]
    sets = []
    if space_of(config.model).generates:
        sizes = list(dict.fromkeys((world_of(config).check_size(config, None), largest)))
        actions += [_row("sampling", config, gpu, "sample", size, QUESTIONS) for size in sizes]
        for name, (prompts, images, tokens) in PROMPT_SETS.items():
            tokens = min(tokens, config.data.caption_tokens)
            sets += [_row(name, config, gpu, "sample", size, prompts * images, tokens) for size in sizes]
    worst = max([*actions, *sets], key=lambda row: row.estimate.device_bytes)
    if not worst.estimate.fits:
        raise UserError(_too_large(config, gpu, worst))
    return actions, sets


def _row(
    name: str, config: ExperimentConfig, gpu: GPU, action: ActionName, size: Size, count: int, tokens: int | None = None
) -> Row:
    return Row(name, action, size, count, tokens, _estimate(config, gpu, action, size, count, tokens))


def _estimate(
    config: ExperimentConfig, gpu: GPU, action: ActionName, size: Size, count: int, tokens: int | None
) -> InferenceEstimate:
    counts = {"images": count} if action == "sample" else {"questions": count}
    return estimate_action(config, action, gpu, size=size, text_tokens=tokens, **counts)


def _too_large(config: ExperimentConfig, gpu: GPU, row: Row) -> str:
    needed = row.estimate.device_bytes
    fit = [
        name
        for name, other in GPUS.items()
        if _estimate(config, other, row.action, row.size, row.count, row.text_tokens).fits
    ]  # fmt: skip
    remedies = [f"--gpu {', '.join(fit)}"] if fit else []
    if max(phase.weights for phase in row.estimate.by_pool.values()) + row.estimate.beside < gpu.memory:
        remedies.append(f"fewer than {row.estimate.batch} at once (--set sampling.batch_size)")
    return (
        f"{row.name} at {_pixels(row.size)} px: needs {needed / 1e9:,.1f} GB, one pool at a time, "
        f"{(needed - gpu.memory) / 1e9:,.1f} GB more than {gpu.name}'s {gpu.memory / 1e9:,.0f}; "
        + (f"it fits with: {'; or '.join(remedies)}" if remedies else "no kind of GPU mends it; make the model smaller")
    )


def as_json(config: ExperimentConfig, variant: str, gpu: GPU) -> None:
    """Prints one JSON object. Parameters and bytes are integers."""
    actions, sets = rows_of(config, gpu)
    data = {
        "scale": config.scale,
        "variant": variant,
        "gpu": vars(gpu) | {"flops": round(gpu.flops)},
        "parameters": {pool or "shared": count for pool, count in count_by_pool(config).items()},
        "actions": [row.as_json() for row in actions],
        "prompt_sets": [row.as_json() for row in sets],
        "assumed": list(ASSUMED),
    }
    say(*json.dumps(data, indent=1).split("\n"))


def show(config: ExperimentConfig, variant: str, gpu: GPU) -> None:
    """Prints tables."""
    actions, sets = rows_of(config, gpu)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(
        f"scale {config.scale}, {variant}, one {gpu.name} ({gpu.memory / 1e9:.0f} GB, {gpu.flops / 1e12:.0f} bf16 TFLOP/s, "
        f"{gpu.bandwidth / 1e12:.2g} TB/s)\n"
    )
    _print_memory(console, actions)
    _print_hours(console, [*actions, *sets])
    console.print("Assumed: " + "; ".join(ASSUMED) + ".")


def _print_memory(console: Console, actions: list[Row]) -> None:
    console.print("GB on the GPU while each pool is at work, and of host memory")
    table = _table("", "action", "px", "together", "loaded", "pool", "weights", "KV caches", "rest", "sum", "host")
    for row in actions:
        estimate = row.estimate
        for number, (pool, phase) in enumerate(estimate.by_pool.items()):
            caches, work = phase.working.get("kv_caches", 0), sum(phase.working.values())
            cells = [pool, *(_gigabytes(size) for size in (phase.weights, caches, work - caches + estimate.beside,
                                                           phase.weights + work + estimate.beside))]  # fmt: skip
            first = [row.name, _pixels(row.size), f"{estimate.batch}", _loaded(row), *cells, _gigabytes(estimate.host_bytes)]
            table.add_row(*(first if not number else ["", "", "", "", *cells, ""]))
    table.title = None
    console.print(table, "")


def _print_hours(console: Console, rows: list[Row]) -> None:
    console.print("Time on one GPU; N of them, each with a share, take an Nth and the loading")
    table = _table("", "what", "px", "images or questions", "s each", "loading, min", "hours", "host GB")
    for row in rows:
        table.add_row(
            row.name, _pixels(row.size), f"{row.count:,}", f"{row.estimate.seconds / row.count:,.2g}",
            f"{row.estimate.loading_seconds / 60:,.2g}", _hours(row.estimate.hours), _gigabytes(row.estimate.host_bytes),
        )  # fmt: skip
    table.title = None
    console.print(table, "")


def _loaded(row: Row) -> str:
    return "in phases" if row.estimate.phases else "one pool" if row.action == "answer" else "whole"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f}"


def _pixels(size: Size) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
