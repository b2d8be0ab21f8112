"""What the project's own choices cost, as ratios within one run: `python -m benchmarks.speed --out speed.json`.

Variants are timed in alternation, in CPU time on a CPU, and medians are compared; absolute times are printed, never asserted.

    training    a Pixel+RF step against a Pixel step; bf16 against fp32
    attention   the fused kernel against explicit matmuls, at the pack's length and at a long one

Others' code is compared in benchmarks/peers.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.timing import alternate, provenance
from rf_repro.config.model_schema import DecoderConfig
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.experiment.run import make_trainer
from rf_repro.model.attention import explicit_attention, fused_attention, fused_runs, make_context
from rf_repro.model.layout import Group, PackedLayout, SampleLayout, Span

CPU = torch.device("cpu")


def training(base: ExperimentConfig, repeats: int) -> dict[str, float]:
    configs = {
        "pixel bf16": base,
        "pixel_rf bf16": apply_overrides(base, {"representation.kind": "discrete"}),
        "pixel fp32": apply_overrides(base, {"optim.precision": "fp32"}),
    }
    trainers = {name: make_trainer(config, 0, CPU, None, None, None) for name, config in configs.items()}
    trainers["pixel_rf bf16"].begin()
    return alternate({name: trainer.train_step for name, trainer in trainers.items()}, CPU, repeats, warm=2)


def attention(repeats: int) -> dict[str, float]:
    tasks: dict[str, Callable[[], object]] = {}
    for spans in (
        (Span("text", 12), Span("representation", 17, (4, 4)), Span("pixel", 36, (6, 6))),
        (Span("text", 64), Span("representation", 256, (16, 16)), Span("pixel", 1024, (32, 32))),
    ):
        layout = SampleLayout(spans)
        batch = 32 if layout.length < 100 else 2
        packed, runs = PackedLayout((Group(layout, batch),)), fused_runs(layout)
        for dtype in (torch.bfloat16, torch.float32):
            shapes = ((batch, layout.length, 4, 32), (batch, 2, layout.length, 32), (batch, 2, layout.length, 32))
            qkv = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
            (group,) = make_context(packed, DecoderConfig(), dtype, CPU).groups
            name = f"{layout.length} tokens {str(dtype).removeprefix('torch.')}"
            tasks[f"{name} explicit"] = lambda qkv=qkv, bias=group.bias: explicit_attention(*qkv, bias).sum().backward()
            tasks[f"{name} fused"] = lambda qkv=qkv, runs=runs: fused_attention(*qkv, runs).sum().backward()
    return alternate(tasks, CPU, repeats, warm=2)


RATIOS = (
    ("a Pixel+RF step costs, in Pixel steps", "pixel_rf bf16", "pixel bf16"),
    ("fp32 over bf16, a Pixel step", "pixel fp32", "pixel bf16"),
    ("fused over explicit attention, bf16, 65 tokens", "65 tokens bfloat16 fused", "65 tokens bfloat16 explicit"),
    ("fused over explicit attention, fp32, 65 tokens", "65 tokens float32 fused", "65 tokens float32 explicit"),
    ("fused over explicit attention, bf16, 1344 tokens", "1344 tokens bfloat16 fused", "1344 tokens bfloat16 explicit"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("tiny", "smoke"), default="tiny", help="of the steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="timed repetitions of each task (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    base = get_scale(options.scale)
    if options.scale == "tiny":
        base = apply_overrides(base, {"data.scenes.num_train": 2000})
    seconds = {**training(base, options.repeats), **attention(options.repeats)}
    ratios = {label: seconds[slow] / seconds[fast] for label, slow, fast in RATIOS}
    for name, value in seconds.items():
        print(f"{name:<40} {value * 1e3:10.2f} ms")
    for name, value in ratios.items():
        print(f"{name:<52} {value:6.2f}x")
    if options.out:
        record = {"benchmark": "speed", **provenance(CPU), "seconds": seconds, "ratios": ratios}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
