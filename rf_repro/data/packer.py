"""Packs: as many samples as fit a budget of tokens (paper App. A: NaViT packing, 32,768 tokens a GPU).

A pack has two parts. Understanding and text fill their own (`StageConfig.understanding_tokens`), from a stream of their own, and
generation fills the rest: what is read to understand is the same for every variant, whatever tokens generation takes beside it. A
variant that does not generate has packs of the first part alone (paper Sec. 4.4: same data).

Samples of a part wait in a pool of `data.lookahead`. A part takes the oldest ones while they fit, then those of the waiting that
fill what is left best. The oldest always fits an empty part, so a sample waits for at most `lookahead` packs.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import Part, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.problems import CorruptSample
from rf_repro.data.packing import PackedBatch, SampleGroup, to_images
from rf_repro.data.prepare import Prepared
from rf_repro.data.shards.images import decode_image, resize
from rf_repro.data.source_reader import Reference
from rf_repro.data.streams import SampleStream, shares
from rf_repro.data.text_tokenizer import ImageTextTokenizer

CPU = torch.device("cpu")
MAX_WAITING_BYTES = 128 << 20  # of stored images in a pool; beyond it fewer samples wait


@dataclass(frozen=True)
class Pack:
    """What one optimiser step takes from one stream.

    Attributes:
        batch: groups of samples of equal (H, W, T), ordered by these; images float32 in [-1, 1].
        num_tokens, budget: of the packed sequence, and the most it may have.
        position: of each part's stream, after this pack, ready for JSON.
        keys: names of the samples, "source/shard:index", in the order of their groups and rows.
    """

    batch: PackedBatch
    num_tokens: int
    budget: int
    position: dict[str, Any]
    keys: tuple[str, ...]

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Name -> where the source stands and what was met in it, of all parts."""
        return {name: source for part in self.position.values() for name, source in part["sources"].items()}


@dataclass(frozen=True)
class GroupArrays:
    """A group as it crosses from a loading process: pixels uint8 [B, H, W, 3] or None, ids int64 [B, T], mask bool or None."""

    task: str
    pixels: np.ndarray | None
    ids: np.ndarray
    mask: np.ndarray | None

    def to_group(self, device: torch.device) -> SampleGroup:
        pixels, ids, mask = (None if part is None else _moved(part, device) for part in (self.pixels, self.ids, self.mask))
        assert ids is not None
        return SampleGroup(None if pixels is None else to_images(pixels), ids, mask)


@dataclass(frozen=True)
class PackArrays:
    """A pack in arrays: a quarter of its size as float32, and no file handle for each of its hundreds of tensors."""

    groups: tuple[GroupArrays, ...]
    num_tokens: int
    budget: int
    position: dict[str, Any]
    keys: tuple[str, ...]

    def to_pack(self, device: torch.device = CPU) -> Pack:
        parts = [(group.task == "generation", group.to_group(device)) for group in self.groups]
        batch = PackedBatch(
            generation=tuple(group for generated, group in parts if generated),
            understanding=tuple(group for generated, group in parts if not generated),
        )
        return Pack(batch, self.num_tokens, self.budget, self.position, self.keys)


def _moved(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """On the device; CUDA copies it from pinned memory, while the host goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


Chosen = tuple[Prepared, np.ndarray | None]  # a sample of a pack, with its image at its size, uint8 [H, W, 3]


class PackStream:
    """The packs of one stream, endless; see SampleStream for what they follow from."""

    def __init__(
        self, config: ExperimentConfig, stage: StageConfig, seed: int, tokenizer: ImageTextTokenizer, stream: int,
        position: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`position`: to go on from, of a pack of this stream. Raises UserError as SampleStream, and where it has other parts."""
        used = list(shares(config, stage))
        if position is not None and set(position) != set(used):
            raise UserError(
                f"stages.{stage.name}.mixture: the saved position is of {', '.join(position)}, this stage has {', '.join(used)}; "
                "resume with the same mixture"
            )
        self.room = {part: stage.part_tokens(part) for part in used}
        self.budget = sum(self.room.values())
        self.parts: dict[Part, PartStream] = {}
        for part in used:
            saved = None if position is None else position[part]
            samples = SampleStream(config, stage, seed, tokenizer, part, stream, saved)
            self.parts[part] = PartStream(samples, [Reference(*item) for item in saved["waiting"]] if saved else [])

    def __iter__(self) -> "PackStream":
        return self

    def __next__(self) -> PackArrays:
        """
        Raises:
            UserError: of a source too much is corrupt, or nothing can be used.
        """
        chosen: list[Chosen] = []
        room = 0
        for part, stream in self.parts.items():
            room += self.room[part]  # beside what the part before has left
            found = stream.take(room)
            room -= sum(sample.tokens for sample, _ in found)
            chosen += found
        groups, keys = _group(chosen)
        position: dict[str, Any] = {part: stream.position() for part, stream in self.parts.items()}
        return PackArrays(groups, self.budget - room, self.budget, position, keys)


class PartStream:
    """One part of the packs of a stream: its samples, and those of them that wait."""

    def __init__(self, samples: SampleStream, waiting: Sequence[Reference]) -> None:
        """`waiting`: what did when the position was saved. Raises UserError where it is not what it was."""
        self.samples, self._data = samples, samples.config.data
        self._waiting = samples.again(waiting)

    def take(self, room: int) -> list[Chosen]:
        """Samples of at most `room` tokens together. Raises UserError as SampleStream."""
        chosen = fill(self._waiting, self._is_full, lambda: next(self.samples), self._decode, room)
        for sample, _ in chosen:
            self.samples.note_packed(sample)
        return chosen

    def position(self) -> dict[str, Any]:
        """Where the part is, ready for JSON: after it, the same samples follow."""
        return self.samples.position() | {"waiting": [list(astuple(sample.reference)) for sample in self._waiting]}

    def _is_full(self, waiting: Sequence[Prepared]) -> bool:
        return len(waiting) >= self._data.lookahead or sum(len(one.image or b"") for one in waiting) > MAX_WAITING_BYTES

    def _decode(self, sample: Prepared) -> Chosen | None:
        """The sample with its image, or None where it has no image; None alone where that cannot be decoded, which is counted."""
        source = sample.reference.source
        if sample.image is None:
            return sample, None
        try:
            pixels = resize(decode_image(sample.image, self._data.filters.max_pixels), *sample.size)
        except CorruptSample as problem:
            self.samples.note_decoded(source, CorruptSample(f"{sample.key}: {problem}"))
            return None
        self.samples.note_decoded(source, None)
        return sample, pixels


class Sized(Protocol):
    @property
    def tokens(self) -> int: ...


S = TypeVar("S", bound=Sized)
R = TypeVar("R")


def fill(
    waiting: list[S], is_full: Callable[[Sequence[S]], bool], draw: Callable[[], S], take: Callable[[S], R | None], budget: int
) -> list[R]:
    """The samples of one pack.

    Args:
        waiting: the pool, oldest first; it keeps what was not chosen.
        is_full: of the pool, whether no more should wait. It must not be of an empty one.
        draw: one more sample for it, of at most `budget` tokens.
        take: makes what goes into the pack of a chosen sample; None: it cannot, and the room stays free.
    """
    room = budget
    taken: list[R] = []
    while True:
        while not is_full(waiting):
            waiting.append(draw())
        costs = [sample.tokens for sample in waiting]
        picked = [0] if costs[0] <= room else best_subset(costs, room)
        if not picked:
            return taken
        for sample in [waiting[index] for index in picked]:
            if (made := take(sample)) is not None:
                taken.append(made)
                room -= sample.tokens
        for index in reversed(picked):
            del waiting[index]


def best_subset(costs: Sequence[int], room: int) -> list[int]:
    """Indices of the values with the largest sum <= room, exactly; of several such sets, one of the earliest values.

    Bit s of `reached[i]` says that some of the first i values sum to s: 64 shifts of numbers of `room` bits.
    """
    fitting = [index for index, cost in enumerate(costs) if cost <= room]
    reached, limit = [1], (1 << room + 1) - 1
    for index in fitting:
        reached.append((reached[-1] | reached[-1] << costs[index]) & limit)
    total, chosen = reached[-1].bit_length() - 1, []
    for count in range(len(fitting), 0, -1):
        if not reached[count - 1] >> total & 1:
            chosen.append(fitting[count - 1])
            total -= costs[fitting[count - 1]]
    return chosen[::-1]


def _group(chosen: Sequence[Chosen]) -> tuple[tuple[GroupArrays, ...], tuple[str, ...]]:
    """Samples of equal layout together, in the order of layouts; the samples of a group in the order they were chosen."""
    together: dict[tuple[Any, ...], list[Chosen]] = {}
    for sample, pixels in chosen:
        task = "generation" if sample.task == "generation" else "understanding"
        together.setdefault((task, *sample.size, len(sample.ids)), []).append((sample, pixels))
    groups, keys = [], []
    for layout, members in sorted(together.items(), key=lambda item: item[0]):
        samples = [sample for sample, _ in members]
        groups.append(
            GroupArrays(
                layout[0],
                np.stack([pixels for _, pixels in members if pixels is not None]) if layout[1] else None,
                np.stack([sample.ids for sample in samples]),
                None if layout[0] == "generation" else np.stack([sample.mask for sample in samples if sample.mask is not None]),
            )
        )
        keys += [sample.key for sample in samples]
    return tuple(groups), tuple(keys)
