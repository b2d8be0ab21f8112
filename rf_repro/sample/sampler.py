"""Images from text (paper App. A). Every sample has its own seed, so an image does not depend on the batch it is made in.

B samples, T text tokens, N representation tokens, P pixel patches.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from rf_repro.config.schema import SamplingConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import TextTokens
from rf_repro.model.attention import KVCache
from rf_repro.model.layers import unpatchify
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.schedule import guide, sample_top_k, shifted_times, timestep_shift


class Sampler:
    """Two-stage inference of one model with its averaged weights."""

    def __init__(self, model: RFModel, sampling: SamplingConfig, tokens: TextTokens) -> None:
        if model.pixels is None:
            raise ValueError("model.pixel.space=none: a VLM-only model has no generation pathway to sample from")
        self.model, self.pixels, self.sampling, self.tokens = model, model.pixels, sampling, tokens
        self.device = model.text_embedding.weight.device

    @torch.no_grad()
    def sample(self, text_ids: Tensor, seeds: Sequence[int], codes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            text_ids: int64 [B, T].
            seeds: one for each sample.
            codes: int64 [B, N], to replace the first stage (e.g. codes of true images).

        Returns:
            Images float32 [B, 3, S, S] around [-1, 1], and the representation tokens used (None without RF).
        """
        text_ids = text_ids.to(self.device)
        caches = None
        if self.model.representation is not None:
            codes, caches = self.sample_representation(text_ids, seeds) if codes is None else (codes.to(self.device), None)
        if caches is None:
            caches = self._prefix(text_ids, codes, None)
        return self.sample_pixels(caches, text_ids.shape, seeds), codes

    def sample_representation(self, text_ids: Tensor, seeds: Sequence[int]) -> tuple[Tensor, list[KVCache]]:
        """Stage 1: top-k sampling with guidance l(no text) + w_rep (l(text) - l(no text)).

        Returns:
            Codes int64 [B, N], and the caches of `[text | representation]` that stage 2 continues.
        """
        representation = self.model.representation
        assert representation is not None
        B, T = text_ids.shape
        N, scale = representation.grid**2, self.sampling.cfg_representation
        uniform = torch.stack([torch.rand(N, generator=_generator("representation", seed)) for seed in seeds]).to(self.device)
        null = self.tokens.dropped(T).to(self.device).expand(B, -1)
        both = torch.cat([text_ids, null]) if scale != 1 else text_ids
        codes = torch.empty(both.shape[0], 0, dtype=torch.int64, device=self.device)
        caches = self.model.decoder.new_caches(both.shape[0])
        tokens = torch.cat([self.model.text_embedding(both), representation.embed(codes)], 1)
        num_cached = 0
        for index in range(N + 1):
            layout = replace(self.model.generation_layout(T, index, with_pixels=False), num_cached=num_cached)
            hidden = self.model.extend(caches, layout, tokens)
            num_cached = layout.length
            if index == N:
                break
            logits = representation.logits(hidden[:, -1]).float()
            if scale != 1:
                conditional, unconditional = logits.chunk(2)
                logits = guide(conditional, unconditional, scale)
            drawn = sample_top_k(logits, self.sampling.top_k, uniform[:, index])
            codes = torch.cat([codes, drawn.repeat(both.shape[0] // B)[:, None]], 1)
            tokens = representation.embed(codes)[:, -1:]
        return codes[:B], [cache.first(B) for cache in caches]

    def sample_pixels(self, caches: list[KVCache], text_shape: torch.Size, seeds: Sequence[int]) -> Tensor:
        """Stage 2: Euler steps from noise; guidance x(none) + w_pix (x(text, R) - x(none)). The prefix is computed once."""
        B, T = text_shape
        grid, patch_size = self.pixels.grid, self.model.config.model.pixel.patch_size
        shape = (grid**2, 3 * patch_size**2)
        z = torch.stack([torch.randn(shape, generator=_generator("pixels", seed)) for seed in seeds]).to(self.device)
        scale = self.sampling.cfg_pixel
        if scale != 1:
            none = [cache.expand(B) for cache in self._unconditional_prefix(T)]
            caches = [KVCache.stack(own, other) for own, other in zip(caches, none, strict=True)]
        layout = self.model.generation_layout(T)
        layout = replace(layout, num_cached=layout.length - grid**2)
        times = shifted_times(self.sampling.steps, timestep_shift(grid**2, self.sampling.shift_base_patches)).tolist()
        for t, t_next in pairwise(times):
            repeated = z.repeat(2, 1, 1) if scale != 1 else z
            clean = self.model.denoise(caches, layout, repeated, torch.full((repeated.shape[0],), t, device=self.device))
            if scale != 1:
                conditional, unconditional = clean.chunk(2)
                clean = guide(conditional, unconditional, scale)
            z = z + (clean - z) * ((t_next - t) / (1 - t))  # no floor: the last step lands on x
        return unpatchify(z, patch_size)

    def _unconditional_prefix(self, num_text: int) -> list[KVCache]:
        """Caches of one sample with text and representation dropped: it is the same for all."""
        codes = dropped = None
        if self.model.representation is not None:
            codes = torch.zeros(1, self.model.representation.grid**2, dtype=torch.int64, device=self.device)
            dropped = torch.ones(1, dtype=torch.bool, device=self.device)
        return self._prefix(self.tokens.dropped(num_text).to(self.device)[None], codes, dropped)

    def _prefix(self, text_ids: Tensor, codes: Tensor | None, dropped: Tensor | None) -> list[KVCache]:
        """Caches of `[text | representation]` computed in one pass."""
        caches = self.model.decoder.new_caches(text_ids.shape[0])
        tokens = self.model.text_embedding(text_ids)
        if self.model.representation is not None:
            assert codes is not None
            tokens = torch.cat([tokens, self.model.representation.embed(codes, dropped)], 1)
        self.model.extend(caches, self.model.generation_layout(text_ids.shape[1], with_pixels=False), tokens)
        return caches


def _generator(purpose: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(purpose, seed))
