"""Sampling with one pool of the model on the device at a time, for models that do not fit whole (paper Sec. 3.3: text,
representation tokens and pixels have pools of their own).

Batches go together through three phases: texts with the understanding pool, representation tokens with theirs, pixels with
theirs. Between phases a batch's keys and values wait on the CPU, so pools are loaded once a phase and group of batches, not once
a batch. Images are those of the whole model up to rounding: texts are read in a pass of their own.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rf_repro.data.packing import Size
from rf_repro.model.attention import KVCache
from rf_repro.model.layout import Pool
from rf_repro.sample.footprint import parked_bytes, tokens_of
from rf_repro.sample.requests import Batch
from rf_repro.sample.sampler import Sampler

PARKED_AT_ONCE = 32 << 30  # bytes of keys and values that wait on the host, of one process
CPU = torch.device("cpu")


class PhasedSampler:
    """A sampler whose pools are loaded in turn.

    Args:
        use: loads a pool and lets go of the others.
        parked_at_once: bytes that may wait on the host; one batch goes ahead whatever it needs.
    """

    def __init__(self, sampler: Sampler, use: Callable[[Pool], None], parked_at_once: int = PARKED_AT_ONCE) -> None:
        self.sampler, self._use, self._parked_at_once = sampler, use, parked_at_once

    def sample_all(self, batches: Sequence[Batch], size: Size) -> Iterator[tuple[Tensor, Tensor | None]]:
        """As of `Sampler`. Images come when their group is in its last phase."""
        for group in self.groups(batches, size):
            yield from self._sample_group(group, size)

    def groups(self, batches: Sequence[Batch], size: Size) -> list[list[Batch]]:
        """Batches in order, in groups whose caches may wait together."""
        model, groups, held, lengths = self.sampler.model, list[list[Batch]](), 0, set[int]()
        number_bytes = next(model.parameters()).element_size()
        for batch in batches:
            B, T = batch.text_ids.shape
            one = parked_bytes(model.config, tokens_of(model.config, size, T), 1, number_bytes)
            needed = one * (B + (T not in lengths))  # and what has no text: once for each length
            if not groups or held + needed > self._parked_at_once:
                groups.append([])
                held, lengths, needed = 0, set(), one * (B + 1)
            groups[-1].append(batch)
            held += needed
            lengths.add(T)
        return groups

    @torch.no_grad()
    def _sample_group(self, group: Sequence[Batch], size: Size) -> Iterator[tuple[Tensor, Tensor | None]]:
        sampler, device = self.sampler, self.sampler.device
        lengths = [batch.text_ids.shape[1] for batch in group]
        self._use("understanding")
        parked = [_to(sampler.read_text(batch.text_ids.to(device)), CPU) for batch in group]
        none = {T: _to(sampler.read_text(sampler.tokens.dropped(T).to(device)[None]), CPU) for T in dict.fromkeys(lengths)}
        values: list[Tensor | None] = [None] * len(group)
        if sampler.model.representation is not None:
            self._use("representation")
            for index, (batch, T) in enumerate(zip(group, lengths, strict=True)):
                read = _to(parked[index], device), _to(none[T], device)
                values[index], caches = sampler.sample_representation(batch.text_ids, batch.seeds, size, read)
                parked[index] = _to(caches, CPU)
                del read, caches  # the next batch's are fetched before these names are theirs
            none = {T: _to(sampler.drop_representation(_to(caches, device), T, size), CPU) for T, caches in none.items()}
        self._use("pixel")
        for index, (batch, T) in enumerate(zip(group, lengths, strict=True)):
            caches, parked[index] = parked[index], []
            images = sampler.sample_pixels(_to(caches, device), batch.text_ids.shape, batch.seeds, size, _to(none[T], device))
            yield images, values[index]


def _to(caches: Sequence[KVCache], device: torch.device) -> list[KVCache]:
    return [cache.to(device) for cache in caches]
