"""Packs of image-text shards as the trainer asks for them: each rank has some streams to itself."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.data.image_text import ImageTextData, metrics, packed
from rf_repro.data.packer import CPU, Pack
from rf_repro.train.data import OwnPack

INITIAL_STEPS = 8  # at most, from which targets start


class StreamedData:
    """A stage's packs from where the streams stand; see `ImageTextData`."""

    def __init__(self, data: ImageTextData, ranks: Ranks = ALONE, device: torch.device = CPU) -> None:
        """`ranks`: that the stage's streams are shared out over; `device`: where packs are worked on."""
        self.packs_of, self._ranks, self._device, self._step = data, ranks, device, 0
        self._recent: list[Pack] = []  # since the last row of metrics
        self._positions: list[dict[str, Any]] | None = None  # of this rank's streams, after the last step
        self._steps: Iterator[list[Pack]] | None = None

    def packs(self, step: int) -> list[OwnPack]:
        data = self.packs_of
        if self._steps is None:
            self._steps = data.steps(self._positions, self._device)
        packs = next(self._steps)
        self._recent += packs
        self._step = step
        self._positions = [pack.position for pack in packs]
        seeds = [derive_seed("step", data.stage.name, data.seed, step, stream) for stream in data.streams]
        return [OwnPack(pack.batch, torch.Generator().manual_seed(seed), ALONE) for pack, seed in zip(packs, seeds, strict=True)]

    def first_features(self, features_of: Callable[[list[Tensor]], Tensor], wanted: int) -> Tensor:
        """Of the first steps, in the order of their streams: as many as are wanted, if eight steps have them."""
        found, count = [], 0
        for index, packs in enumerate(self.packs_of.steps(None)):
            images = [group.images for pack in packs for group in pack.batch.generation]
            found.append(features_of([batch for batch in images if batch is not None]))
            count += len(found[-1])
            if count >= wanted or index + 1 == INITIAL_STEPS:
                break
        if not count:
            raise UserError(f"data.sources: no image to generate in the first {INITIAL_STEPS} steps; add a source of that task")
        return torch.cat(found)

    def warm_up_images(self, count: int) -> Iterator[Tensor]:
        return iter(())  # assumed: with packs of thousands of features the codebook settles in the first steps

    def metrics(self) -> dict[str, float]:
        """Besides what this rank's packs say: samples and tokens of all ranks' packs in a step, by part, a mean since the stage
        began."""
        packs, self._recent = self._recent, []
        found = packed(packs[-len(self.packs_of.streams) :])
        sums = torch.tensor([list(counts) for counts in found.values()], dtype=torch.float64)
        self._ranks.sum_([sums])
        means = {
            f"data/{part}_{what}": total / self._step
            for part, totals in zip(found, sums.tolist(), strict=True)
            for what, total in zip(("samples", "tokens"), totals, strict=True)
        }
        return metrics(packs) | means

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """Where each stream stands, of all ranks in their order."""
        return {"positions": list(chain.from_iterable(ranks.gather_objects(self._positions or [])))}

    def load_state(self, state: dict[str, Any]) -> None:
        self._positions = [state["positions"][stream] for stream in self.packs_of.streams]
