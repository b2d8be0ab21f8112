"""What GenEval on real images needs, tiny: a detector and a CLIP of random weights, a prompt of each task, noise to look at."""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from evaluators.detectors.coco import OBJECT_NAMES

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def save_tiny_detector(folder: Path) -> Path:
    """A Mask2Former of COCO's 80 classes with random weights, in transformers' layout."""
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=30, id2label=dict(enumerate(OBJECT_NAMES)),
    )  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.normal_(std=weights[0].numel() ** -0.5)
            if name.startswith("class_predictor") and weights.dim() > 1:
                weights.mul_(40)  # scores of all sizes
    model.save_pretrained(folder)
    return folder


def save_tiny_clip(folder: Path) -> Path:
    """A CLIP of random weights, whose architecture open_clip then knows."""
    from evaluators.colors.clip import PROFILES, build

    (folder / "cli-clip.json").write_text(json.dumps(CLIP))
    add_tiny_clip(folder)
    torch.manual_seed(1)
    save_file(build("cli-clip", PROFILES["geneval-2023"]).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def add_tiny_clip(folder: Path) -> None:
    """In a process of its own open_clip has to be told again."""
    open_clip.add_model_config(folder / "cli-clip.json")


@contextmanager
def small_models() -> Iterator[None]:
    """Images reach the detector at a fifth of GenEval's size, and CLIP is the tiny one."""
    from evaluators.colors import clip as colors
    from evaluators.detectors import pixels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colors, "load", functools.partial(colors.load, architecture="cli-clip"))
        patch.setattr(pixels, "SHORT_SIDE", 160)
        patch.setattr(pixels, "LONG_SIDE", 267)
        yield


def write_prompts(path: Path) -> Path:
    """A prompt of each task."""
    one, two = {"class": "dog", "count": 1}, {"class": "tv remote", "count": 1}
    include: dict[str, list[dict[str, Any]]] = {
        "single_object": [one], "two_object": [one, two], "counting": [{**one, "count": 2}], "colors": [{**one, "color": "red"}],
        "position": [one, {**two, "position": ["left of", 0]}], "color_attr": [{**one, "color": "red"}, {**two, "color": "blue"}],
    }  # fmt: skip
    rows = [{"tag": task, "include": include[task], "prompt": f"a photo for {task}"} for task in TASKS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_noise(root: Path, prompts: Path, num: int) -> Path:
    """`num` pictures of noise a prompt, in two sizes."""
    generator = torch.Generator().manual_seed(2)
    for index, line in enumerate(prompts.read_text().splitlines()):
        (root / f"{index:05d}" / "samples").mkdir(parents=True)
        (root / f"{index:05d}" / "metadata.jsonl").write_text(line)
        for sample in range(num):
            noise = torch.randint(0, 256, (9, 9, 3), generator=generator, dtype=torch.uint8).numpy()
            picture = Image.fromarray(noise).resize((64, 64) if index < 4 else (72, 48), Image.Resampling.BICUBIC)
            picture.save(root / f"{index:05d}" / "samples" / f"{sample:04d}.png")
    return root
