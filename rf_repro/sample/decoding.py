"""One token a sample after another, after what caches hold."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rf_repro.compute.captured import Captured, captures
from rf_repro.model.attention import KVCache, context_at
from rf_repro.model.layout import SampleLayout
from rf_repro.model.rf_model import RFModel


class TokenDecoder:
    """Runs tokens [B, D] through the decoder and stores them in the caches.

    Args:
        layout: of the cached tokens and those to come, which are of its last span.
    """

    def __init__(self, model: RFModel, caches: Sequence[KVCache], layout: SampleLayout, num_samples: int) -> None:
        self._model, self._caches, self._first = model, caches, layout.num_cached
        self._contexts = model.contexts_of(layout, num_samples)
        self._captured: Captured | None = None
        if captures(model.config.parallel.compile, caches[0].keys.device):
            self._captured = Captured(self.run_at)

    def __call__(self, tokens_BD: Tensor, index: int) -> Tensor:
        """Of the `index`-th token to come: hidden states [B, D]."""
        if self._captured is None:
            return self._model.decoder(tokens_BD, self._contexts[index], None, self._caches, commit=True)[0]
        place = torch.full((1,), self._first + index, device=tokens_BD.device)
        hidden_BD = self._captured(tokens_BD, place)
        for cache in self._caches:
            cache.length = self._first + index + 1
        return hidden_BD

    def run_at(self, tokens_BD: Tensor, place: Tensor) -> Tensor:
        """The same with the same shapes for every place, int64 [1] of the whole sequence: attention sees all that caches have
        room for, and a mask hides what comes after."""
        context = context_at(self._contexts, place, self._first, self._caches[0].keys.shape[2], self._model.decoder.config)
        for cache in self._caches:
            cache.place = place
        hidden_TD = self._model.decoder(tokens_BD, context, None, self._caches, commit=True)[0]
        for cache in self._caches:
            cache.place = None
        return hidden_TD
