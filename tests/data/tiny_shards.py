"""Tar shards of small drawn images with captions, conversations or texts, and a config whose stage packs them."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from tests.data.tiny_tokenizer import write_tiny_tokenizer

Member = tuple[str, bytes]


def png(width: int, height: int, value: int) -> bytes:
    """One colour that tells it apart: (value % 256, value // 256, 77)."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value % 256, value // 256, 77)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, samples: Sequence[Sequence[Member]]) -> None:
    """Each sample: its members' endings and bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, members in enumerate(samples):
            for ending, data in members:
                info = tarfile.TarInfo(f"{index:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def sample(task: str, value: int, rng: np.random.Generator) -> list[Member]:
    """Of random size and text; the text holds the value."""
    image = ("png", png(int(rng.integers(16, 41)), int(rng.integers(16, 41)), value))
    words = " ".join(["circle"] * int(rng.integers(1, 5)))
    if task == "generation":
        return [image, ("txt", f"caption {value} {words}".encode())]
    if task == "text":
        return [("txt", f"text {value} {words}".encode())]
    turns = [{"from": "human", "value": f"<image>\nquestion {value}"}, {"from": "gpt", "value": f"answer {words}"}]
    return [image, ("json", json.dumps({"conversations": turns}).encode())]


def write_source(folder: Path, task: str, num_shards: int, num_samples: int, first: int = 0) -> dict[str, Any]:
    """`num_samples` over shards of unequal length; returns the source's fields."""
    rng = np.random.default_rng(first)
    cuts = sorted(rng.choice(np.arange(1, num_samples), num_shards - 1, replace=False).tolist()) if num_shards > 1 else []
    values = np.arange(first, first + num_samples)
    for number, part in enumerate(np.split(values, cuts)):
        write_tar(folder / f"{task}-{number:03d}.tar", [sample(task, int(value), rng) for value in part])
    return {"name": task, "path": str(folder / f"{task}-*.tar"), "format": "webdataset", "task": task}


def tiny_config(folder: Path, sources: list[dict[str, Any]], **changes: Any) -> ExperimentConfig:
    """`paper` with sides of multiples of 8 pixels, 16 to 32, and packs of 300 tokens, 4 a step: 120 to understand, of samples of
    at most 64, and 180 to generate, of at most 121. What has no source is not in the mixture, and its part stays empty.

    `changes`: `__` for dots; `joint__` is the stage's.
    """
    size = write_tiny_tokenizer(folder / "tokenizer")
    mixture = {f"stages.joint.mixture.{kind}": 0 for kind in ("generation", "understanding", "text")
               if not any(source["task"] == kind for source in sources)}  # fmt: skip
    given = {name.replace("__", ".").replace("joint.", "stages.joint."): value for name, value in changes.items()}
    overrides: dict[str, Any] = {
        "data.sources": sources, "data.tokenizer": str(folder / "tokenizer"), "model.decoder.vocab_size": size + 5,
        "data.caption_tokens": 40, "data.answer_tokens": 48, "data.filters.min_side": 8, "data.lookahead": 8, "data.workers": 0,
        "model.encoder.patch_size": 4, "model.pixel.patch_size": 4, "representation.kind": "discrete",
        "stages.joint.tokens_per_rank": 300, "stages.joint.understanding_share": 0.4, "stages.joint.packs_per_step": 4,
        "stages.joint.min_image_size": 16, "stages.joint.max_image_size": 32, **mixture, **given,
    }  # fmt: skip
    present = {path: value for path, value in overrides.items() if not _is_present(path, value)}
    return apply_overrides(get_scale("paper"), present)


def _is_present(path: str, value: Any) -> bool:
    node: Any = get_scale("paper")
    for part in path.split("."):
        node = next(stage for stage in node if stage.name == part) if isinstance(node, tuple) else getattr(node, part)
    return bool(node == value)
