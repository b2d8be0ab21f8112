"""A third world: images of one colour and its name. It is all that another world has to say to be trained, sampled and scored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rf_repro.compute.ranks import Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.files import write_jsonl
from rf_repro.core.hashing import content_hash, derive_seed, file_sha256
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import PackedBatch, SampleGroup, to_images, to_pixels
from rf_repro.sample.sampler import Sampler
from rf_repro.train.data import OwnPack, Tokenizer, TrainingData
from rf_repro.train.trainer import Trainer
from rf_repro.worlds import Progress, World

COLORS = torch.tensor([[230, 30, 30], [30, 230, 30], [30, 30, 230], [230, 230, 30]], dtype=torch.uint8)
SIDE = 24


@dataclass(frozen=True)
class Words:
    """Padding, start, end and null, then the colours."""

    pad_id: int = 0
    bos_id: int = 1
    null_id: int = 3
    vocab_size: int = 4 + len(COLORS)

    def captions(self, colors: Tensor) -> Tensor:
        """`<bos> color <eos> <pad>`, int64 [B, 4]."""
        start, end, pad = (torch.full_like(colors, token) for token in (self.bos_id, 2, self.pad_id))
        return torch.stack([start, 4 + colors, end, pad], 1)


def paint(colors: Tensor) -> Tensor:
    """uint8 [B, S, S, 3]."""
    return COLORS[colors][:, None, None].expand(-1, SIDE, SIDE, -1)


@dataclass
class Pictures:
    """Colours drawn anew in each step."""

    stage: StageConfig
    seed: int

    def packs(self, step: int) -> list[OwnPack]:
        generator = torch.Generator().manual_seed(derive_seed("plain colours", self.seed, step))
        drawn, seen = (torch.randint(len(COLORS), (count,), generator=generator) for count in (8, 4))
        groups = [SampleGroup(to_images(paint(colors)), Words().captions(colors)) for colors in (drawn, seen)]
        return [OwnPack(PackedBatch((groups[0],), (groups[1],)), generator, Ranks())]

    def first_features(self, features_of: Callable[[list[Tensor]], Tensor], wanted: int) -> Tensor:
        return features_of([to_images(paint(torch.arange(len(COLORS))))])

    def warm_up_images(self, count: int) -> Iterator[Tensor]:
        return iter(())

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self, ranks: Ranks) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


class PlainColors(World):
    def check(self, config: ExperimentConfig) -> None: ...

    def max_image_size(self, config: ExperimentConfig) -> int:
        return SIDE

    def tokenizer(self, config: ExperimentConfig) -> Tokenizer:
        return Words()

    def data(
        self, config: ExperimentConfig, stage: StageConfig, seed: int, tokenizer: Tokenizer, ranks: Ranks, device: torch.device
    ) -> TrainingData:
        return Pictures(stage, seed)

    def fingerprint(self, config: ExperimentConfig) -> str:
        return content_hash(COLORS.tolist())

    def sample(self, trainer: Trainer, run: RunDir, progress: Progress) -> None:
        colors, folder = torch.arange(len(COLORS)), ImageFolder(run.samples)
        sampler = Sampler(trainer.inference_model(), trainer.space, trainer.config.sampling, trainer.tokens)
        images, _ = sampler.sample(Words().captions(colors), colors.tolist())
        for index, pixels in enumerate(to_pixels(images).numpy()):
            folder.write_prompt(index, {"tag": "color", "include": [], "prompt": str(index)})
            folder.write_image(index, 0, index, Image.fromarray(pixels))
            progress("sample", index + 1, len(colors))
        entries = [SampleEntry(index, 0, index, file_sha256(folder.image_path(index, 0))) for index in colors.tolist()]
        folder.finish(entries, expected=len(colors))

    def evaluate(self, trainer: Trainer, run: RunDir, progress: Progress) -> None:
        """The share of images whose mean is nearest to the colour that was asked for."""
        found = [
            np.asarray(Image.open(ImageFolder(run.samples).image_path(index, 0))).mean((0, 1)) for index in range(len(COLORS))
        ]
        nearest = [int(np.abs(COLORS.numpy() - mean).sum(1).argmin()) for mean in found]
        rows = [{"prompt_id": index, "correct": nearest[index] == index} for index in range(len(COLORS))]
        write_jsonl(run.evals / "colors.items.jsonl", rows)
        score = fmean(row["correct"] for row in rows)
        result = EvalResult("plain colours", "nearest of 4", {"overall": score}, len(rows), len(rows), step=trainer.step)
        run.write_eval("colors", result)
