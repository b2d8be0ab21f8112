"""How full packs are, and how fast they are made: `python -m benchmarks.packing --out packing.json`.

    utilisation   tokens over budget at `paper`'s stages, packing by `data.lookahead`, of samples with drawn sizes (below)
    samples/s     of one loading process, from tar shards of JPEG images with captions, written to a temporary folder

Drawn sizes: aspect ratios log-normal (sigma 0.35) within the filter's limit, captions log-normal around 90 tokens (sigma 0.6),
conversations around 160 (sigma 0.8), texts around 400 (sigma 0.8), each cut as the config cuts. Parts and shares are the stage's.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import PARTS, Part
from rf_repro.data.packer import PackStream, fill
from rf_repro.data.prepare import sample_tokens, target_size
from rf_repro.data.text_tokenizer import ImageTextTokenizer

TEXT_TOKENS = {"generation": (90, 0.6), "understanding": (160, 0.8), "text": (400, 0.8)}  # median, sigma


@dataclass(frozen=True)
class Drawn:
    tokens: int


@dataclass(frozen=True)
class Simulated:
    """Packs of drawn samples: tokens over budget in all and in the emptiest pack, samples a pack."""

    utilisation: float
    lowest: float
    samples: float


def simulate(stage_name: str, num_packs: int, seed: int = 0, **changes: Any) -> Simulated:
    """`changes`: of the config's `data`, e.g. lookahead=16."""
    config = apply_overrides(
        get_scale("paper"), {"representation.kind": "discrete", **{f"data.{name}": value for name, value in changes.items()}}
    )
    stage, rng = config.stage(stage_name), np.random.default_rng(seed)
    counts = {part: {kind: getattr(stage.mixture, kind) for kind in kinds} for part, kinds in PARTS.items()}
    counts = {part: share for part, share in counts.items() if sum(share.values())}
    smallest, stride = stage.min_image_size or stage.max_image_size, config.image_stride

    def draw(part: Part) -> Drawn:
        shares = np.array(list(counts[part].values()))
        kind = list(counts[part])[int(rng.choice(len(shares), p=shares / shares.sum()))]
        median, sigma = TEXT_TOKENS[kind]
        limit = config.data.caption_tokens if kind == "generation" else config.data.answer_tokens
        length = int(np.clip(median * np.exp(sigma * rng.standard_normal()), 8, limit))
        if kind == "text":
            return Drawn(sample_tokens(config, kind, 0, 0, length))
        aspect = np.clip(np.exp(0.35 * rng.standard_normal()), 1 / config.data.filters.max_aspect_ratio, 3)
        longer = smallest + stride * int(rng.integers((stage.max_image_size - smallest) // stride + 1))
        return Drawn(sample_tokens(config, kind, *target_size(round(1000 * aspect), 1000, longer, stride), length))

    def is_full(pool: Sequence[Drawn]) -> bool:
        return len(pool) >= config.data.lookahead

    waiting: dict[Part, list[Drawn]] = {part: [] for part in counts}
    packs: list[list[Drawn]] = []
    for _ in range(num_packs):
        pack, room = [], 0
        for part, pool in waiting.items():  # as `rf_repro.data.packer.PackStream`
            room += stage.part_tokens(part)
            taken = fill(pool, is_full, partial(draw, part), lambda one: one, room)
            pack, room = pack + taken, room - sum(one.tokens for one in taken)
        packs.append(pack)
    full = np.array([sum(one.tokens for one in pack) for pack in packs]) / sum(map(stage.part_tokens, counts))
    return Simulated(float(full.mean()), float(full.min()), float(np.mean([len(pack) for pack in packs])))


def load(folder: Path, size: int, num_samples: int, config: ExperimentConfig) -> dict[str, float]:
    """Samples and tokens a second of one stream from JPEGs of `size` pixels a side."""
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "captions.tar", "w") as tar:
        for index in range(num_samples):
            noise = rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            for ending, data in (("jpg", buffer.getvalue()), ("txt", b"a photo of a red circle above a blue square " * 8)):
                info = tarfile.TarInfo(f"{index:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    packs = PackStream(config, config.stage("joint"), 0, ImageTextTokenizer.from_config(config), 0)
    next(packs)
    begin, samples, tokens = time.perf_counter(), 0, 0
    for _ in range(4):
        pack = next(packs).to_pack()
        samples, tokens = samples + len(pack.keys), tokens + pack.num_tokens
    seconds = time.perf_counter() - begin
    return {"samples/s": samples / seconds, "tokens/s": tokens / seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=200, help="simulated packs (default 200)")
    parser.add_argument("--size", type=int, default=512, help="pixels a side of the stored images (default 512)")
    parser.add_argument("--samples", type=int, default=600, help="stored images (default 600)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(arguments)
    from tests.data.tiny_tokenizer import write_tiny_tokenizer

    result: dict[str, Any] = {}
    for stage in ("alignment", "joint", "continued"):
        for lookahead in (1, 16, 64):
            changes = {} if lookahead == 64 else {"lookahead": lookahead}
            found = simulate(stage, options.packs, **changes)
            result[f"{stage} {lookahead}"] = vars(found)
            print(f"{stage:<10} look-ahead {lookahead:<3} {found.utilisation:7.2%} full, at least {found.lowest:7.2%}, "
                  f"{found.samples:6.1f} samples a pack")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = apply_overrides(
            get_scale("paper"),
            {
                "representation.kind": "discrete", "data.tokenizer": name, "stages.joint.mixture.understanding": 0,
                "model.decoder.vocab_size": write_tiny_tokenizer(folder) + 1, "stages.joint.mixture.text": 0,
                "stages.joint.packs_per_step": 1,
                "data.sources": [{"name": "captions", "path": str(folder / "captions.tar")}],
            },
        )  # fmt: skip
        result["loading"] = load(folder, options.size, options.samples, config)
        print(", ".join(f"{value:,.0f} {name}" for name, value in result["loading"].items()) + " of one process")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
