"""What the trainer asks of a stage's data, whichever world they are of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rf_repro.compute.ranks import Ranks
from rf_repro.data.packing import PackedBatch


@dataclass(frozen=True)
class OwnPack:
    """A pack of a step that this rank works on.

    Attributes:
        generator: of all that is drawn for it, on the CPU.
        ranks: who share it out; ALONE, where this rank has it to itself.
    """

    batch: PackedBatch
    generator: torch.Generator
    ranks: Ranks


class Tokenizer(Protocol):
    """The ids that losses and layouts need."""

    @property
    def pad_id(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def null_id(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...


class TrainingData(Protocol):
    """A stage's samples as one rank reads them. Every rank makes the same calls."""

    def packs(self, step: int) -> list[OwnPack]:
        """This rank's packs of the 1-based step. Steps are asked for in their order."""
        ...

    def first_features(self, features_of: Callable[[list[Tensor]], Tensor], wanted: int) -> Tensor:
        """Features [N, F] of the first images to be generated, of all ranks, from which targets start.

        Args:
            features_of: image batches of this rank -> features [n, F] of all ranks, in rank order.
            wanted: features that suffice.

        Raises:
            UserError: there is no image to generate.
        """
        ...

    def warm_up_images(self, count: int) -> Iterator[Tensor]:
        """Batches of images for codebook-only updates before the first step; where the world has none, none."""
        ...

    def metrics(self) -> dict[str, float]:
        """What the packs since the last call say."""
        ...

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """Where the data stand after the last step, JSON-ready, the same on every rank; {} where a step's follow from its
        number."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        ...
