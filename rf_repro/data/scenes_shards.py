"""The scenes world written as shards of real data's formats, so that the loaders of real data are used by real training runs.

`generation`: scenes with their captions; `understanding`: questions with their images; `text`: dense captions. Scene i is the
one that `ScenesWorld.train` or `SceneQuestions.train` gives for i.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_json
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.data.shards.export import encode_png, write_shard
from rf_repro.data.shards.images import resize
from rf_repro.data.shards.listing import SUFFIXES
from rf_repro.data.shards.samples import RawSample, Turn

Format = Literal["webdataset", "parquet", "jsonl"]
Task = Literal["generation", "understanding", "text"]
FORMATS, TASKS = get_args(Format), get_args(Task)
MANIFEST = "scenes.json"


@dataclass(frozen=True)
class ScenesExport:
    """What is written.

    Attributes:
        config: the world.
        start, num: scenes start to start + num - 1.
        shard_size: samples a shard; the last one may have fewer.
        image_size: pixels a side of the stored images; 0: as drawn.
    """

    config: ScenesConfig
    num: int
    start: int = 0
    shard_format: Format = "webdataset"
    task: Task = "generation"
    shard_size: int = 1000
    image_size: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num", 1), ("start", 0), ("shard_size", 1), ("image_size", 0)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be >= {least}")
        if self.task != "understanding" and self.start + self.num > self.config.num_train:
            raise UserError(
                f"--start {self.start} --num {self.num}: this world has data.scenes.num_train={self.config.num_train} scenes; "
                "ask for fewer, or set that higher"
            )

    @property
    def identity(self) -> dict[str, object]:
        """What a folder of shards holds, as JSON."""
        fingerprint = self._questions.fingerprint if self.task == "understanding" else self._world.fingerprint
        return {
            "world": fingerprint, "task": self.task, "format": self.shard_format, "start": self.start, "num": self.num,
            "shard_size": self.shard_size, "image_size": self.image_size or self.config.image_size,
        }  # fmt: skip

    def shards(self, folder: Path) -> list[tuple[Path, range]]:
        """Each shard's path and the indices of its samples."""
        starts = range(self.start, self.start + self.num, self.shard_size)
        stop, suffix = self.start + self.num, SUFFIXES[self.shard_format][0]
        width = max(6, len(str(len(starts) - 1)))
        return [
            (folder / f"{self.task}-{number:0{width}d}{suffix}", range(first, min(first + self.shard_size, stop)))
            for number, first in enumerate(starts)
        ]

    def samples(self, indices: range) -> list[RawSample]:
        """The samples of these indices; keys are their indices."""
        at = np.asarray(indices, np.int64)
        keys = [f"{index:09d}" for index in indices]
        if self.task == "understanding":
            asked = self._questions.train(at)
            turns = [(Turn(question, answer),) for question, answer in zip(asked.questions, asked.answers, strict=True)]
            return [
                RawSample(key, self._png(image), "", turn) for key, image, turn in zip(keys, asked.images, turns, strict=True)
            ]
        scenes = self._world.train(at)
        if self.task == "text":
            return [RawSample(key, None, text, ()) for key, text in zip(keys, scenes.dense_captions(), strict=True)]
        return [
            RawSample(key, self._png(image), text, ())
            for key, image, text in zip(keys, scenes.images, scenes.captions, strict=True)
        ]

    @cached_property
    def _world(self) -> ScenesWorld:
        return ScenesWorld(self.config)

    @cached_property
    def _questions(self) -> SceneQuestions:
        return SceneQuestions(self.config)

    def _png(self, image: np.ndarray) -> bytes:
        return encode_png(resize(image, self.image_size, self.image_size) if self.image_size else image)


def export_scenes(export: ScenesExport, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Writes the shards that are not there yet; one that is, is complete.

    Args:
        progress: told of (samples done, of how many) after each shard.

    Returns:
        Shards written.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    manifest, identity = folder / MANIFEST, export.identity
    if manifest.exists():
        if read_json(manifest) != identity:
            raise UserError(f"--out {folder}: holds other scenes ({MANIFEST}); name another folder")
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"--out {folder}: is not empty and has no {MANIFEST}; name another folder")
    else:
        write_json(manifest, identity)
    written = done = 0
    for path, indices in export.shards(folder):
        if not path.exists():
            write_shard(path, export.samples(indices), export.shard_format)
            written += 1
        done += len(indices)
        progress(done, export.num)
    return written
