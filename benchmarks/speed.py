"""Speed as ratios within one run, on whatever machine this is: `python benchmarks/speed.py --out speed.json`.

Variants are timed in alternation, in CPU time on a CPU, and medians are compared; absolute times are printed, never asserted.

    training    a Pixel+RF step against a Pixel step; bf16 against fp32
    attention   explicit matmuls against the fused kernel, at the pack's length
    sampling    prefix KV cache against recomputing text and representation at each of the 25 steps
    cli         `rf-repro --help`, in seconds
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from statistics import median

import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.experiment.run import make_trainer
from rf_repro.model.attention import _by_span, _explicit
from rf_repro.model.inputs import GenerationInput
from rf_repro.sample.sampler import Sampler


def alternate(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each task, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for index in range(repeats + 2):
        for name, task in tasks.items():
            begin = time.process_time()
            task()
            if index >= 2:  # the first two warm caches
                times[name].append(time.process_time() - begin)
    return {name: median(values) for name, values in times.items()}


def training(base: ExperimentConfig, repeats: int) -> dict[str, float]:
    configs = {
        "pixel bf16": base,
        "pixel_rf bf16": apply_overrides(base, {"representation.kind": "discrete"}),
        "pixel fp32": apply_overrides(base, {"optim.precision": "fp32"}),
    }
    trainers = {name: make_trainer(config, 0, torch.device("cpu"), None, None, None) for name, config in configs.items()}
    trainers["pixel_rf bf16"].begin()
    return alternate({name: trainer.train_step for name, trainer in trainers.items()}, repeats)


def attention(repeats: int) -> dict[str, float]:
    from rf_repro.model.layout import SampleLayout, Span

    tasks: dict[str, Callable[[], object]] = {}
    for label, spans in (
        ("65 tokens", (Span("text", 12), Span("representation", 17, (4, 4)), Span("pixel", 36, (6, 6)))),
        ("1344 tokens", (Span("text", 64), Span("representation", 256, (16, 16)), Span("pixel", 1024, (32, 32)))),
    ):
        layout = SampleLayout(spans)
        batch = 32 if layout.length < 100 else 2
        for dtype in (torch.bfloat16, torch.float32):
            q, k, v = (torch.randn(batch, layout.length, heads, 32).to(dtype).requires_grad_() for heads in (4, 2, 2))
            name = f"{label} {str(dtype).removeprefix('torch.')}"
            tasks[f"{name} explicit"] = lambda q=q, k=k, v=v, layout=layout: _explicit(q, k, v, layout, None).sum().backward()
            tasks[f"{name} fused"] = lambda q=q, k=k, v=v, layout=layout: _by_span(q, k, v, layout).sum().backward()
    return alternate(tasks, repeats)


def sampling(base: ExperimentConfig, repeats: int) -> dict[str, float]:
    config = apply_overrides(base, {"representation.kind": "discrete"})
    tokenizer = SceneTokenizer(config.data.scenes)
    trainer = make_trainer(config, 0, torch.device("cpu"), None, None, None)
    model = trainer.inference_model()
    sampler = Sampler(model, trainer.space, replace(config.sampling, cfg_pixel=1.0), trainer.tokens)
    batch = 16
    text = torch.from_numpy(tokenizer.encode(["a photo of a circle"] * batch, config.data.caption_tokens))
    assert model.representation is not None
    assert model.pixels is not None
    codes = torch.zeros(batch, prod(model.representation.grid), dtype=torch.int64)
    noisy = torch.randn(batch, prod(model.pixels.grid), 3 * config.model.pixel.patch_size**2)

    @torch.no_grad()
    def recomputed() -> None:
        for _ in range(config.sampling.steps):
            model([GenerationInput(text, noisy, torch.full((batch,), 0.5), codes)], [])

    return alternate(
        {"denoise, cached prefix": lambda: sampler.sample(text, range(batch), codes), "denoise, recomputed": recomputed}, repeats
    )


def command_line(repeats: int) -> dict[str, float]:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rf_repro.cli", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return {"rf-repro --help": median(times)}


RATIOS = (
    ("a Pixel+RF step costs, in Pixel steps", "pixel_rf bf16", "pixel bf16"),
    ("fp32 over bf16, a Pixel step", "pixel fp32", "pixel bf16"),
    ("fused over explicit attention, bf16, 65 tokens", "65 tokens bfloat16 fused", "65 tokens bfloat16 explicit"),
    ("fused over explicit attention, fp32, 65 tokens", "65 tokens float32 fused", "65 tokens float32 explicit"),
    ("fused over explicit attention, bf16, 1344 tokens", "1344 tokens bfloat16 fused", "1344 tokens bfloat16 explicit"),
    ("recomputed over cached prefix, 25 steps", "denoise, recomputed", "denoise, cached prefix"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="timed repetitions of each task (default 10)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = apply_overrides(get_scale("tiny"), {"data.scenes.num_train": 2000})
    seconds = {
        **training(base, options.repeats),
        **attention(options.repeats),
        **sampling(base, max(options.repeats // 2, 1)),
        **command_line(max(options.repeats // 2, 1)),
    }
    ratios = {label: seconds[slow] / seconds[fast] for label, slow, fast in RATIOS}
    for name, value in seconds.items():
        print(f"{name:<40} {value * 1e3:10.2f} ms")
    for name, value in ratios.items():
        print(f"{name:<52} {value:6.2f}x")
    if options.out:
        options.out.write_text(json.dumps({"seconds": seconds, "ratios": ratios, "torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main()
