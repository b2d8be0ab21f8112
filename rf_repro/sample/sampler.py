"""Images from text (paper App. A). Every sample has its own seed, so an image does not depend on the batch it is made in.

B samples, T text tokens, N representation tokens, P pixel patches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from rf_repro.compute.captured import Captured, captures
from rf_repro.config.schema import SamplingConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import Size, TextTokens
from rf_repro.maths.noise import normals
from rf_repro.maths.schedule import guide, shifted_times, timestep_shift
from rf_repro.model.attention import KVCache
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace
from rf_repro.sample.decoding import TokenDecoder
from rf_repro.sample.requests import Batch


class Sampler:
    """Two-stage inference of one model with its averaged weights, in the space its generation tokens hold."""

    def __init__(self, model: RFModel, space: ImageSpace, sampling: SamplingConfig, tokens: TextTokens) -> None:
        if model.pixels is None:
            raise ValueError("model.pixel.space=none: a VLM-only model has no generation pathway to sample from")
        self.model, self.space, self.pixels, self.sampling, self.tokens = model, space, model.pixels, sampling, tokens
        self.device = next(model.decoder.parameters()).device  # attention's, which is there whatever pool is

    @torch.no_grad()
    def sample(
        self, text_ids: Tensor, seeds: Sequence[int], representation: Tensor | None = None, size: Size | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            text_ids: int64 [B, T].
            seeds: one for each sample.
            representation: codes int64 [B, N] or features [B, N, F], to replace the first stage (e.g. those of true images).
            size: (H, W) of the images, multiples of `image_stride` pixels; None: the largest trained.

        Returns:
            Images float32 [B, 3, H, W] around [-1, 1], and the representation tokens used (None without any).
        """
        text_ids = text_ids.to(self.device)
        if self.model.representation is None:
            caches = self._prefix(text_ids, None, None, size)
        elif representation is None:
            representation, caches = self.sample_representation(text_ids, seeds, size)
        else:
            representation = representation.to(self.device)
            caches = self._prefix(text_ids, representation, None, size)
        return self.sample_pixels(caches, text_ids.shape, seeds, size), representation

    def sample_all(self, batches: Sequence[Batch], size: Size | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """What `sample` returns of each batch, in order."""
        for batch in batches:
            yield self.sample(batch.text_ids, batch.seeds, size=size)

    def sample_representation(
        self,
        text_ids: Tensor,
        seeds: Sequence[int],
        size: Size | None = None,
        read: tuple[list[KVCache], list[KVCache]] | None = None,
    ) -> tuple[Tensor, list[KVCache]]:
        """Stage 1, token by token: codes by top-k with guidance l(no text) + w_rep (l(text) - l(no text)), features by the
        diffusion head with the same guidance.

        Args:
            read: caches of `read_text`, of the texts (the list is used up) and of one dropped text, where they have been read
                before; the text's pool is then not needed.

        Returns:
            Codes int64 [B, N] or features [B, N, F], and the caches of `[text | representation]` that stage 2 continues.
        """
        model, representation = self.model, self.model.representation
        assert representation is not None
        B, T = text_ids.shape
        grid, guided = model.feature_grid(size), self.sampling.cfg_representation != 1
        N = prod(grid)
        random = representation.randomness(self._seeds("representation", seeds), N)
        rows = 2 * B if guided else B
        start = representation.embed(representation.zeros(rows, 0), grid=grid)
        if read is None:
            null = self.tokens.dropped(T).to(self.device).expand(B, -1)
            both = torch.cat([text_ids, null]) if guided else text_ids
            caches = model.decoder.new_caches(rows, T + 1 + N)
            tokens = torch.cat([model.text_embedding(both), start], 1)
            before = model.generation_layout(T, 0, with_pixels=False, size=size)
            hidden = model.extend(caches, before, tokens)[:, -1]
        else:
            caches, none = read
            for layer, other in enumerate(none):
                caches[layer] = KVCache.stack(caches[layer], other, B if guided else 0, 1 + N)
            before = replace(model.generation_layout(T, 0, with_pixels=False, size=size), num_cached=T)
            hidden = model.extend(caches, before, start)[:, -1]
        whole = model.generation_layout(T, with_pixels=False, size=size)
        decode = TokenDecoder(model, caches, replace(whole, num_cached=before.length), rows)
        drawn: list[Tensor] = []
        for index in range(N):
            predicted = representation.predict(hidden)
            value = representation.draw(predicted[:B], predicted[B:] if guided else None, random[:, index], self.sampling)
            drawn.append(value)
            token = representation.embed_one(value, index, grid)
            hidden = decode(token.repeat(rows // B, 1), index)
        return torch.stack(drawn, 1), [cache.first(B) for cache in caches]

    def sample_pixels(
        self,
        caches: list[KVCache],
        text_shape: torch.Size,
        seeds: Sequence[int],
        size: Size | None = None,
        none: list[KVCache] | None = None,
    ) -> Tensor:
        """Stage 2: Euler steps from noise; guidance x(none) + w_pix (x(text, R) - x(none)). The prefix is computed once.

        Args:
            caches: of `[text | representation]`; the list is used up, so that no cache is held twice.
            none: of one sample with both dropped, where it has been computed before; other pools are then not needed.
        """
        B, T = text_shape
        grid = self.model.pixel_grid(size)
        z = normals(self._seeds("pixels", seeds), prod(grid), self.pixels.patch_in.in_features)
        scale = self.sampling.cfg_pixel
        if scale != 1:
            for layer, other in enumerate(none or self._unconditional_prefix(T, size)):
                caches[layer] = KVCache.stack(caches[layer], other, B)
        layout = self.model.generation_layout(T, size=size)
        layout = replace(layout, num_cached=layout.length - prod(grid))
        denoise: Callable[..., Tensor] = partial(self.model.denoise, caches, layout, grid=grid)
        if captures(self.model.config.parallel.compile, self.device):
            denoise = Captured(denoise)
        times = shifted_times(self.sampling.steps, timestep_shift(prod(grid), self.sampling.shift_base_patches)).tolist()
        for t, t_next in pairwise(times):
            repeated = z.repeat(2, 1, 1) if scale != 1 else z
            t_B = torch.full((repeated.shape[0],), t, device=self.device)
            clean = denoise(repeated, t_B)
            if scale != 1:
                conditional, unconditional = clean.chunk(2)
                clean = guide(conditional, unconditional, scale)
            z = z + (clean - z) * ((t_next - t) / (1 - t))  # no floor: the last step lands on x
        return self.space.decode(z, grid)

    def read_text(self, text_ids: Tensor) -> list[KVCache]:
        """Caches of texts [B, T] alone."""
        caches = self.model.decoder.new_caches(text_ids.shape[0])
        layout = self.model.understanding_layout(text_ids.shape[1], with_image=False)
        self.model.extend(caches, layout, self.model.text_embedding(text_ids))
        return caches

    def drop_representation(self, caches: list[KVCache], num_text: int, size: Size | None) -> list[KVCache]:
        """The caches of one text, now with a dropped representation after it."""
        assert self.model.representation is not None
        layout = replace(self.model.generation_layout(num_text, with_pixels=False, size=size), num_cached=num_text)
        self.model.extend(caches, layout, self.model.representation.embed(*self._dropped(size), self.model.feature_grid(size)))
        return caches

    def _seeds(self, purpose: str, seeds: Sequence[int]) -> Tensor:
        """Of what is drawn for one purpose, int64 [B]."""
        return torch.tensor([derive_seed(purpose, seed) for seed in seeds], device=self.device)

    def _dropped(self, size: Size | None) -> tuple[Tensor, Tensor]:
        """Values and flag of one dropped representation."""
        assert self.model.representation is not None
        values = self.model.representation.zeros(1, prod(self.model.feature_grid(size)))
        return values, torch.ones(1, dtype=torch.bool, device=self.device)

    def _unconditional_prefix(self, num_text: int, size: Size | None) -> list[KVCache]:
        """Caches of one sample with text and representation dropped: it is the same for all."""
        values, dropped = (None, None) if self.model.representation is None else self._dropped(size)
        return self._prefix(self.tokens.dropped(num_text).to(self.device)[None], values, dropped, size)

    def _prefix(
        self, text_ids: Tensor, representation: Tensor | None, dropped: Tensor | None, size: Size | None = None
    ) -> list[KVCache]:
        """Caches of `[text | representation]` computed in one pass."""
        caches = self.model.decoder.new_caches(text_ids.shape[0])
        tokens = self.model.text_embedding(text_ids)
        if self.model.representation is not None:
            assert representation is not None
            embedded = self.model.representation.embed(representation, dropped, self.model.feature_grid(size))
            tokens = torch.cat([tokens, embedded], 1)
        self.model.extend(caches, self.model.generation_layout(text_ids.shape[1], with_pixels=False, size=size), tokens)
        return caches
