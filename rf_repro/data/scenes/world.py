"""The scenes world: small pictures of coloured shapes with the captions, metadata and six tasks of GenEval.

It stands in for image-text pairs where no data can be downloaded and minutes must do. It was chosen for learnability, before
any score existed in it: with shapes of one size and orientation, saturated colours, centres on a coarse grid and a plain
dark background, a small model soon learns to draw, so that what separates variants is what their images hold and where.
Every scene is exactly what its caption says. Sizes, rotations, backgrounds and more shapes make harder worlds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.data.scenes.draws import choice, stream_keys, uniform
from rf_repro.data.scenes.grammar import TASKS, Prompt, all_prompts, dense_caption
from rf_repro.data.scenes.held_out import HeldOut
from rf_repro.data.scenes.layout import Layouts
from rf_repro.data.scenes.render import render

VERSION = 1  # raise it when the same config gives other scenes

# Draw numbers of a scene (layouts use those from 1000 on); colours, radii and rotations take one a slot.
_TASK, _PROMPT, _PAINT, _BACKGROUND, _COLOR, _RADIUS, _ROTATION = 0, 1, 2, 10, 20, 30, 40


@dataclass(frozen=True)
class SceneBatch:
    """N scenes with M = `config.max_objects` slots; slots are filled in the order of the metadata's `include`.

    Attributes:
        images: uint8 [N, S, S, 3].
        captions: GenEval-template caption of each.
        metadata: GenEval's official fields of each.
        shape, color: int64 [N, M], indices into the config's lists, -1 where there is no object.
        center: float32 [N, M, 2], x and y of the bounding box's centre in pixels.
        radius: float32 [N, M], pixels.
    """

    config: ScenesConfig
    images: np.ndarray
    captions: list[str]
    metadata: list[dict[str, Any]]
    shape: np.ndarray
    color: np.ndarray
    center: np.ndarray
    radius: np.ndarray

    def dense_captions(self) -> list[str]:
        """Every object with colour and shape, from left to right (then from top to bottom)."""
        x = np.where(self.shape < 0, np.inf, self.center[..., 0])
        order = np.lexsort((self.center[..., 1], x), axis=1)
        shapes, colors = np.take_along_axis(self.shape, order, 1), np.take_along_axis(self.color, order, 1)
        return [
            dense_caption(self.config, [(a, c) for a, c in zip(row, paint, strict=True) if a >= 0])
            for row, paint in zip(shapes.tolist(), colors.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One scored prompt: GenEval's fields plus `held_out`, whether training kept its combination back."""

    prompt_id: int
    metadata: dict[str, Any]
    num_samples: int


@dataclass(frozen=True)
class _PromptTable:
    """Prompts as arrays: shape and color int64 [P, M] (shape -1: no object; color -1: free), relation int64 [P]."""

    prompts: list[Prompt]
    captions: list[str]
    metadata: list[dict[str, Any]]
    shape: np.ndarray
    color: np.ndarray
    relation: np.ndarray

    @classmethod
    def build(cls, prompts: list[Prompt], config: ScenesConfig) -> "_PromptTable":
        shape = np.full((len(prompts), config.max_objects), -1, np.int64)
        color = shape.copy()
        for row, prompt in enumerate(prompts):
            shape[row, : len(prompt.shapes)] = prompt.shapes
            color[row, : len(prompt.colors)] = prompt.colors
        return cls(
            prompts,
            [prompt.caption(config) for prompt in prompts],
            [prompt.metadata(config) for prompt in prompts],
            shape,
            color,
            np.array([prompt.relation for prompt in prompts], np.int64),
        )


def world_fingerprint(config: ScenesConfig) -> str:
    """Hash of everything that the scenes of a config depend on."""
    return content_hash({"world": "scenes", "version": VERSION, "config": asdict(config)})


class ScenesWorld:
    """Training scenes, renderings of given prompts and the benchmark of one world.

    Raises:
        UserError: the objects don't fit into the image.
    """

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self.layouts = Layouts(config)
        self.held_out = HeldOut(config)
        self.prompts = all_prompts(config)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the scenes depend on."""
        return world_fingerprint(self.config)

    def train(self, indices: np.ndarray) -> SceneBatch:
        """Training scenes: a uniform task, then a uniform prompt of it that is not held out.

        Args:
            indices: int64 [N] in [0, config.num_train). Scene i is the same in whatever batch it is asked for.

        Raises:
            UserError: an index is outside that range.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.config.num_train:
            raise UserError(
                f"scene indices {indices.min()} to {indices.max()}: must be in [0, data.scenes.num_train={self.config.num_train})"
            )
        keys = stream_keys(("train", self.config.seed), indices)
        table, starts, sizes = self._training_table
        task = choice(keys, _TASK, len(TASKS))
        rows = starts[task] + choice(keys, _PROMPT, sizes[task])
        shape, color = table.shape[rows], table.color[rows]
        free = self._free_colors(keys, shape, color)

        # Scenes of two different shapes avoid held-out attribute combinations even where the caption names no colour.
        mixed = np.flatnonzero((color[:, 0] < 0) & (shape[:, 1] >= 0) & (shape[:, 0] != shape[:, 1]))
        allowed, counts = self._allowed_paints
        pair = shape[mixed, 0] * len(self.config.shapes) + shape[mixed, 1]
        free[mixed, :2] = allowed[pair, choice(keys[mixed], _PAINT, counts[pair])]

        captions, metadata = [table.captions[row] for row in rows], [table.metadata[row] for row in rows]
        return self._scenes(keys, shape, free, table.relation[rows], captions, metadata)

    def for_prompts(self, metadata: Sequence[dict[str, Any]], seed: int) -> SceneBatch:
        """Ground truth for prompts, held out or not; scene i depends on (seed, i) and its prompt alone.

        Raises:
            UserError: a prompt asks for what this world does not have.
        """
        prompts = [Prompt.from_metadata(fields, self.config) for fields in metadata]
        table = _PromptTable.build(prompts, self.config)
        keys = stream_keys(("prompts", self.config.seed, seed), np.arange(len(prompts)))
        color = self._free_colors(keys, table.shape, table.color)
        captions = [fields["prompt"] for fields in metadata]
        return self._scenes(keys, table.shape, color, table.relation, captions, list(metadata))

    def benchmark(self, images_per_task: int) -> list[BenchmarkPrompt]:
        """The scored prompts, task by task: of position and color_attr the held-out ones (all, if none are held out).

        Each task gets at least `images_per_task` images, equally many a prompt. A task with more prompts than that gets
        one image of each of `images_per_task` prompts, evenly spread over the list.
        """
        chosen: list[BenchmarkPrompt] = []
        for task in TASKS:
            prompts = [prompt for prompt in self.prompts[task] if prompt in self.held_out] or self.prompts[task]
            if len(prompts) > images_per_task:
                prompts = [prompts[i * len(prompts) // images_per_task] for i in range(images_per_task)]
            num_samples = -(-images_per_task // len(prompts))
            for prompt in prompts:
                fields = {**prompt.metadata(self.config), "held_out": prompt in self.held_out}
                chosen.append(BenchmarkPrompt(len(chosen), fields, num_samples))
        return chosen

    @cached_property
    def _training_table(self) -> tuple[_PromptTable, np.ndarray, np.ndarray]:
        """All training prompts, and int64 [6] first row and number of rows of each task."""
        kept = [[prompt for prompt in self.prompts[task] if prompt not in self.held_out] for task in TASKS]
        sizes = np.array([len(prompts) for prompts in kept], np.int64)
        return (
            _PromptTable.build([prompt for prompts in kept for prompt in prompts], self.config),
            np.cumsum(sizes) - sizes,
            sizes,
        )

    @cached_property
    def _allowed_paints(self) -> tuple[np.ndarray, np.ndarray]:
        """Colours that two different shapes may have in training.

        Returns:
            int64 [shapes * shapes, colors**2, 2], filled from the front, and int64 [shapes * shapes], how many.
        """
        num_shapes, num_colors = len(self.config.shapes), len(self.config.colors)
        paints = np.zeros((num_shapes**2, num_colors**2, 2), np.int64)
        counts = np.zeros(num_shapes**2, np.int64)
        for first, second in {prompt.shapes for prompt in self.prompts["two_object"]}:
            allowed = [
                (a, b)
                for a in range(num_colors)
                for b in range(num_colors)
                if a == b or Prompt("color_attr", (first, second), (a, b)) not in self.held_out
            ]
            row = first * num_shapes + second
            paints[row, : len(allowed)], counts[row] = allowed, len(allowed)
        return paints, counts

    def _free_colors(self, keys: np.ndarray, shape: np.ndarray, color: np.ndarray) -> np.ndarray:
        """`color` with a uniform one where it is open; -1 stays where there is no object."""
        drawn = choice(keys[:, None], _COLOR + np.arange(color.shape[1]), len(self.config.colors))
        return np.where((color < 0) & (shape >= 0), drawn, color)

    def _scenes(
        self,
        keys: np.ndarray,
        shape: np.ndarray,
        color: np.ndarray,
        relation: np.ndarray,
        captions: list[str],
        metadata: list[dict[str, Any]],
    ) -> SceneBatch:
        """Places and renders; uint64 [N] keys, int64 [N, M] shape and color, int64 [N] relation."""
        config, slots = self.config, np.arange(shape.shape[1])
        center = self.layouts.draw(keys, (shape >= 0).sum(1), relation)
        jitter = 2 * uniform(keys[:, None], _RADIUS + slots) - 1
        radius = np.where(shape >= 0, config.radius * (1 + config.radius_jitter * jitter), 0).astype(np.float32)
        rotation = None
        if config.rotation > 0:
            rotation = (config.rotation * (2 * uniform(keys[:, None], _ROTATION + slots) - 1)).astype(np.float32)
        draws = uniform(keys[:, None], _BACKGROUND + np.arange(6))
        images = render(config, shape, color, center, radius, rotation, draws)
        return SceneBatch(config, images, captions, metadata, shape, color, center, radius)
