"""A whole training step of the largest model that fits one GPU: `python -m benchmarks.paper_step --out step.json`.

A Mixture-of-Transformers of Qwen3-1.7B's size with three dense pools, a DINOv3 ViT-L/16, 16,384 codes, all with random weights,
trained by the project's own trainer (bf16 with float32 masters, AdamW, averages, activation checkpointing) on one pack of random
256-pixel images and texts. Printed beside what `rf-repro estimate` says: tokens a second, model FLOPs utilisation, memory.
Ratios in the same run: one FlexAttention call a layer against a call for each layout; with and without recomputing activations
(at a quarter of the tokens, where both fit).
"""

import argparse
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import PARTS, Part
from rf_repro.data.packer import Pack
from rf_repro.data.packing import PackedBatch, SampleGroup
from rf_repro.estimate.gpus import GPU, GPUS
from rf_repro.estimate.plan import Cluster, estimate_stage
from rf_repro.model import attention
from rf_repro.train import trainer as trainer_module
from rf_repro.train.trainer import Trainer
from rf_repro.worlds.image_text.data import StreamedData

SIZES: dict[str, dict[str, Any]] = {
    "1.7b": {
        "model.decoder.width": 2048, "model.decoder.ffn_width": 6144, "model.encoder.width": 1024, "model.encoder.num_layers": 24,
        "model.encoder.num_heads": 16, "model.encoder.ffn_width": 4096,
    },
    "0.6b": {},
    "toy": {
        "model.decoder.width": 64, "model.decoder.num_layers": 2, "model.decoder.num_heads": 4, "model.decoder.num_kv_heads": 2,
        "model.decoder.head_dim": 16, "model.decoder.ffn_width": 128, "model.decoder.vocab_size": 512, "model.encoder.width": 48,
        "model.encoder.num_layers": 2, "model.encoder.num_heads": 3, "model.encoder.ffn_width": 96,
        "representation.codebook_size": 64, "representation.alignment.layer": 1,
    },
}  # fmt: skip
IMAGE, CAPTION, ANSWER = 256, 64, 128  # pixels, tokens, tokens
WARM = 3  # steps


class RandomPacks:
    """Packs as the loader makes them, of random content: each part's kinds in turn, lengths of texts all a little different."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config, self.streams, self.stage, self.seed = config, range(1), config.stages[-1], 0

    def steps(self, positions: object = None, device: object = None) -> Iterator[list[Pack]]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield [self._pack(generator)]

    def _pack(self, generator: torch.Generator) -> Pack:
        config, stage = self.config, self.config.stages[-1]
        features, pixels = (IMAGE // (2 * config.model.encoder.patch_size)) ** 2, (IMAGE // config.model.pixel.patch_size) ** 2
        groups: dict[Part, list[SampleGroup]] = {part: [] for part in PARTS}
        room = 0
        for part, names in PARTS.items():
            room += stage.part_tokens(part)
            kinds = [kind for kind in names for _ in range(getattr(stage.mixture, kind))]
            for index in range(10**6):
                kind = kinds[index * 2 % len(kinds)]
                length = (CAPTION if kind == "generation" else ANSWER) - index % 16
                tokens = length + {"generation": 1 + features + pixels, "understanding": features, "text": 0}[kind]
                if tokens > room:
                    break
                room -= tokens
                ids = torch.randint(config.model.decoder.vocab_size, (1, length), generator=generator)
                images = None if kind == "text" else torch.rand(1, 3, IMAGE, IMAGE, generator=generator) * 2 - 1
                learned = None if kind == "generation" else torch.ones(1, length, dtype=torch.bool)
                groups[part].append(SampleGroup(images, ids, learned))
        batch = PackedBatch(tuple(groups["generation"]), tuple(groups["understanding"]))
        return Pack(batch, stage.tokens_per_rank - room, stage.tokens_per_rank, {}, ())


class RandomTokenizer:
    pad_id, bos_id, null_id, vocab_size = 0, 1, 2, 0


def config_of(size: str, tokens: int, checkpointing: bool) -> ExperimentConfig:
    overrides = SIZES[size] | {
        "model.decoder.pretrained": "", "model.encoder.pretrained": "", "representation.kind": "discrete",
        "model.max_image_size": IMAGE, "data.caption_tokens": CAPTION, "data.answer_tokens": ANSWER,
        "stages.joint.packs_per_step": 1, "stages.joint.min_image_size": 0, "parallel.sharding": "none",
        "stages.continued.max_image_size": IMAGE, "stages.continued.min_image_size": 0,
    }  # fmt: skip
    if tokens != 32_768:
        overrides["stages.joint.tokens_per_rank"] = tokens
    if not checkpointing:
        overrides["parallel.activation_checkpointing"] = False
    config = apply_overrides(get_scale("base"), overrides)
    return replace(config, stages=(config.stage("joint"),))


def measure(config: ExperimentConfig, device: torch.device, steps: int, profile: Path | None = None) -> dict[str, float]:
    """Median seconds of a step, its tokens, the peak of allocated bytes, and the loss."""

    def drawn_here(model: torch.nn.Module, seed: int, given: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """On the device: on one core of the CPU, billions of draws take minutes."""
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if (parameter.ndim > 1 and not name.endswith("position")) or name.endswith((".start", ".mask")):
                yield name, torch.randn(parameter.shape, device=device) * parameter.shape[-1] ** -0.5

    trainer_module.initial_values = drawn_here
    packs: Any = RandomPacks(config)
    trainer = Trainer(config, config.stages[-1], 0, device, StreamedData(packs), RandomTokenizer())
    trainer.begin()
    seconds, logs = [], []
    for step in range(WARM + steps):
        if step == WARM and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin = _now(device)
        logs.append(trainer.train_step())
        seconds.append(_now(device) - begin)
    tokens = trainer.num_tokens / trainer.step
    if profile is not None:
        from torch.profiler import profile as record

        with record() as recorded:
            trainer.train_step()
        table = recorded.key_averages().table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=90)
        profile.write_text(table)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    del trainer
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "seconds": median(seconds[WARM:]),
        "tokens": tokens,
        "peak_bytes": peak,
        "loss": logs[-1]["loss"],
        "first": seconds[0],
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def predicted(config: ExperimentConfig, gpu: GPU, mfu: float = 1.0) -> Any:
    return estimate_stage(config, config.stages[-1], Cluster(gpu, 1, mfu))


def allocated(estimate: Any) -> int:
    """What the estimate says of tensors: the driver's own memory is not among what PyTorch counts."""
    return estimate.memory.peak - estimate.memory.states["context"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.7b", help="of the model (default: 1.7b)")
    parser.add_argument("--tokens", type=int, default=32_768, help="of the pack (default: 32768)")
    parser.add_argument("--steps", type=int, default=5, help="that are timed, after three (default: 5)")
    parser.add_argument("--gpu", choices=GPUS, default="h200", help="whose peak FLOP/s the utilisation is of (default: h200)")
    parser.add_argument("--ratios", action="store_true", help="also the ratios, at a quarter of the tokens")
    parser.add_argument("--profile", type=Path, help="also write the kernels of one step, by time")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = GPUS[options.gpu]
    config = config_of(options.size, options.tokens, checkpointing=True)
    estimate = predicted(config, gpu)
    found = measure(config, device, options.steps, options.profile)
    flops = estimate.step_flops * found["tokens"] / estimate.work.num_tokens
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__,
        "size": options.size, "parameters": estimate.parameters.total, "tokens": found["tokens"], "seconds": found["seconds"],
        "tokens_per_second": found["tokens"] / found["seconds"], "flops": flops, "mfu": flops / found["seconds"] / gpu.flops,
        "peak_bytes": found["peak_bytes"], "estimated_peak_bytes": allocated(estimate),
        "memory_error": allocated(estimate) / found["peak_bytes"] - 1 if found["peak_bytes"] else None,
        "estimated_phases": estimate.memory.phases, "estimated_states": estimate.memory.states, "loss": found["loss"],
        "first_step_seconds": found["first"],
    }  # fmt: skip
    if options.ratios:
        shorter = options.tokens // 4
        recomputed = measure(config_of(options.size, shorter, checkpointing=True), device, options.steps)
        kept_config = config_of(options.size, shorter, checkpointing=False)
        kept = measure(kept_config, device, options.steps)
        attention.MAX_GROUPS_ONE_BY_ONE = 10**6
        one_by_one = measure(config_of(options.size, shorter, checkpointing=True), device, options.steps)
        result["ratios"] = {
            "a call for each layout over one FlexAttention call": one_by_one["seconds"] / recomputed["seconds"],
            "recomputed over kept activations, seconds": recomputed["seconds"] / kept["seconds"],
            "recomputed over kept activations, peak bytes": recomputed["peak_bytes"] / max(kept["peak_bytes"], 1),
        }
        result["kept"] = {"peak_bytes": kept["peak_bytes"], "estimated_peak_bytes": allocated(predicted(kept_config, gpu))}
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
