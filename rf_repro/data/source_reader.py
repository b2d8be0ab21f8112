"""One source as one stream reads it: which samples, in which order, epoch after epoch, as a function of numbers alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.core.untrusted.problems import CorruptSample
from rf_repro.data.shards import list_shards, read_shard, shard_length
from rf_repro.data.shards.samples import RawSample

MAX_EMPTY_EPOCHS = 100  # in a row


@dataclass(frozen=True)
class Reference:
    """One sample: of which source and epoch, in which shard (in the order of `list_shards`), at which index there."""

    source: str
    epoch: int
    shard: int
    index: int


class SourceReader:
    """A stream's samples of a source, endless.

    In every epoch the shards are shuffled and dealt to the streams; where there are fewer shards than streams, each shard is
    cut into parts, as many as let every stream have the same number of them. Within a shard samples are shuffled. All of it
    follows from (seed, stage, source, epoch), so the streams need not speak: in one epoch they have different samples, and
    together all. A stream goes to its next epoch by itself; where shards differ in size, some are ahead of others.

    Attributes:
        epoch, unit, index: where the next sample is: the epoch, the shard or part among the stream's own, the sample there.
    """

    def __init__(
        self, source: SourceConfig, seed: int, stage: str, stream: int, num_streams: int, start: tuple[int, int, int] = (0, 0, 0)
    ) -> None:
        """
        Raises:
            UserError: no shards.
        """
        self.source, self.shards = source, list_shards(source)
        self._names = (seed, stage, source.name)
        self._stream, self._num_streams = stream, num_streams
        self.epoch, self.unit, self.index = start
        self._open: Iterator[RawSample | CorruptSample] | None = None
        self._order: list[int] = []

    def __next__(self) -> tuple[Reference, RawSample | CorruptSample]:
        """The next sample, or what is wrong with it.

        Raises:
            UserError: the source has too few samples for so many streams.
        """
        empty = 0
        while True:
            units = self._units()
            while self.unit < len(units):
                shard, part, num_parts = units[self.unit]
                if self._open is None:
                    self._order = self._shuffled(shard)[part::num_parts]
                    self._open = read_shard(self.shards[shard], self.source, self._order[self.index :])
                if self.index < len(self._order):
                    reference = Reference(self.source.name, self.epoch, shard, self._order[self.index])
                    sample = next(self._open)
                    self.index += 1
                    return reference, sample
                self._open, self.unit, self.index = None, self.unit + 1, 0
            self.epoch, self.unit = self.epoch + 1, 0
            empty += 1
            if empty == MAX_EMPTY_EPOCHS:
                raise UserError(
                    f"data.sources.{self.source.name}: has too few samples for {self._num_streams} packs a step; give more, or "
                    "lower packs_per_step"
                )

    def _units(self) -> list[tuple[int, int, int]]:
        """(shard, part, number of parts) of this stream in this epoch."""
        count = len(self.shards)
        shuffled = np.random.default_rng(derive_seed("shards", *self._names, self.epoch)).permutation(count).tolist()
        num_parts = self._num_streams // math.gcd(count, self._num_streams) if count < self._num_streams else 1
        units = [(shard, part, num_parts) for shard in shuffled for part in range(num_parts)]
        return units[(self._stream - self.epoch) % self._num_streams :: self._num_streams]

    def _shuffled(self, shard: int) -> list[int]:
        generator = np.random.default_rng(derive_seed("samples", *self._names, self.epoch, shard))
        order: list[int] = generator.permutation(shard_length(self.path(shard), self.source)).tolist()
        return order

    def path(self, shard: int) -> Path:
        return self.shards[shard]
