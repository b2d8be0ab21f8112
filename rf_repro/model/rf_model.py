"""The unified model: encoder, connector, decoder, and the ways in and out for text, representation and pixel tokens.

B samples of a group, N representation tokens, P generation tokens ("pixels", also where they hold VAE latents) of C numbers,
D width, V vocabulary, K codes, F width of the encoder's features, H x W pixels of an image: those of one group are alike.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import PackedBatch, Size
from rf_repro.maths.layers import Grid, RMSNorm, pool_2x2, sincos_2d, upper_left
from rf_repro.model.attention import KVCache, PackContext, token_contexts
from rf_repro.model.encoders import encoder_of
from rf_repro.model.inputs import ForwardOutput, GenerationInput, GenerationOutput, UnderstandingInput
from rf_repro.model.layout import Group, PackedLayout, Pool, SampleLayout, Span, SpanKind
from rf_repro.model.mot import MixtureOfTransformers
from rf_repro.model.pixel_tokens import PixelTokens
from rf_repro.model.spaces import space_of
from rf_repro.representation.kinds import representation_of

TEXT_ROWS = 4096  # rows of logits at a time

BySpan = dict[tuple[int, SpanKind], Tensor]  # (group, kind of tokens) -> [B, L, D]


class RFModel(nn.Module):
    """Everything that is trained. Variants differ in which ways in and out exist."""

    def __init__(self, config: ExperimentConfig, vocab_size: int) -> None:
        super().__init__()
        decoder, image_size = config.model.decoder, config.max_image_size
        width, eps = decoder.width, decoder.norm_eps
        self.config = config
        self.encoder = encoder_of(config.model.encoder).build(config.model.encoder, image_size)
        self.feature_patch, self.pixel_patch = 2 * config.model.encoder.patch_size, config.model.pixel.patch_size
        feature_grid, pixel_grid = image_size // self.feature_patch, image_size // self.pixel_patch
        self.connector = nn.Sequential(
            nn.Linear(config.model.encoder.width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.image_position = nn.Parameter(sincos_2d(feature_grid, width, extent=feature_grid))
        self.text_embedding = nn.Embedding(vocab_size, width)
        self.text_norm = RMSNorm(width, eps)
        self.text_head = nn.Linear(width, vocab_size, bias=False)

        pools: list[Pool] = ["understanding"]
        space, representation = space_of(config.model), representation_of(config)
        self.pixels: PixelTokens | None = None
        if space.generates:
            pools.append("pixel")
            additive = decoder.time_conditioning == "additive"
            self.pixels = PixelTokens(width, space.token_dim(config.model), pixel_grid, additive, eps)
        self.representation = representation.tokens(config, feature_grid, pixel_grid)
        if self.representation is not None:
            pools.append("representation")
        self.alignment = representation.alignment(config)
        self.decoder = MixtureOfTransformers(decoder, pools)

    # Layouts

    def feature_grid(self, size: Size | None = None) -> Grid:
        """Rows and columns of pooled features of an image (H, W); None: of the largest."""
        return _cells(size or self._largest, self.feature_patch)

    def pixel_grid(self, size: Size | None = None) -> Grid:
        """Rows and columns of generation tokens of an image (H, W); None: of the largest."""
        return _cells(size or self._largest, self.pixel_patch)

    @property
    def _largest(self) -> Size:
        return (self.config.max_image_size, self.config.max_image_size)

    def generation_layout(
        self, num_text: int, num_representation: int | None = None, with_pixels: bool = True, size: Size | None = None
    ) -> SampleLayout:
        """`[text | start + representation | pixels]`; `num_representation` tokens so far, or all (None)."""
        spans = [Span("text", num_text)]
        if self.representation is not None:
            grid = self.feature_grid(size)
            whole = num_representation is None or num_representation == prod(grid)
            count = prod(grid) if num_representation is None else num_representation
            spans.append(Span("representation", 1 + count, grid if whole else (0, 0)))
        if with_pixels and self.pixels is not None:
            spans.append(Span("pixel", prod(self.pixel_grid(size)), self.pixel_grid(size)))
        return SampleLayout(tuple(spans))

    def understanding_layout(self, num_text: int, with_image: bool = True, size: Size | None = None) -> SampleLayout:
        """`[image features | text]`, or text alone."""
        grid = self.feature_grid(size)
        image = (Span("image", prod(grid), grid),) if with_image else ()
        return SampleLayout((*image, Span("text", num_text)))

    def num_tokens(self, batch: PackedBatch) -> int:
        """Tokens of the packed sequence; masked images count their patches."""
        count = 0
        for group in batch.generation:
            count += len(group.text_ids) * self.generation_layout(group.text_ids.shape[1], size=group.size).length
        for group in batch.understanding:
            layout = self.understanding_layout(group.text_ids.shape[1], group.images is not None, group.size)
            count += len(group.text_ids) * layout.length
        if batch.masked_images is not None:
            count += len(batch.masked_images) * (batch.masked_images.shape[-1] // self.encoder.patch_size) ** 2
        return count

    # Ways in

    def embed_images(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Batches of understanding images, each [B, 3, H, W], -> [B, N, D]: encoder, final norm, 2x2 pooling (assumed), connector
        MLP. The encoder sees all of them in one pass."""
        sizes = [(batch.shape[2], batch.shape[3]) for batch in images]
        features = self.encoder.encode([batch.to(self.image_position.dtype) for batch in images])
        pooled = [
            pool_2x2(self.encoder.norm(own), _cells(size, self.encoder.patch_size))
            for own, size in zip(features, sizes, strict=True)
        ]
        tokens = zip(_at_once(self.connector, pooled), sizes, strict=True)
        return [own + upper_left(self.image_position, self.feature_grid(size)) for own, size in tokens]

    # Forward

    def forward(self, generation: Sequence[GenerationInput], understanding: Sequence[UnderstandingInput]) -> ForwardOutput:
        """One pass over a pack. While gradients are kept, every way in and out is taken, by no samples where the pack has none:
        sharded ranks must do the same things."""
        num_generation, num_understanding = len(generation), len(understanding)
        if torch.is_grad_enabled():
            generation, understanding = self._with_empty_groups(generation, understanding)
        groups = [Group(self.generation_layout(one.text_ids.shape[1], size=one.size), len(one.text_ids)) for one in generation]
        groups += [Group(self.understanding_layout(one.text_ids.shape[1], one.images is not None, one.size), len(one.text_ids))
                   for one in understanding]  # fmt: skip

        ids = [sample.text_ids for sample in generation] + [question.text_ids for question in understanding]
        texts = _at_once(self.text_embedding, ids)
        time_BD, tokens = self._embed_generation(generation)
        tokens |= self._embed_seen(understanding, first=len(generation))
        tokens |= {(index, "text"): text for index, text in enumerate(texts)}

        packed = PackedLayout(tuple(groups))
        ordered = [tokens[index, groups[index].layout.spans[span].kind] for index, span in packed.blocks]
        tap = 0 if self.alignment is None else self.alignment.layer
        x_TD = torch.cat([block.flatten(0, 1) for block in ordered])
        hidden_TD, middle_TD, balance = self.decoder(x_TD, packed, time_BD, tap=tap)

        states = _by_span(packed, hidden_TD)
        middle = states if self.alignment is None else _by_span(packed, middle_TD)
        outputs = self._read_generation(states, middle, len(generation))
        answers = [states[index, "text"] for index in range(len(generation), len(groups))]
        return ForwardOutput(outputs[:num_generation], answers[:num_understanding], balance)

    def _embed_generation(self, generation: Sequence[GenerationInput]) -> tuple[Tensor | None, BySpan]:
        """Time of all samples [B, D]; (group, kind) -> pixel and representation tokens."""
        tokens: BySpan = {}
        if not generation:
            return None, tokens
        assert self.pixels is not None
        dtype = self.pixels.patch_in.weight.dtype
        time_BD = self.pixels.time(torch.cat([sample.t for sample in generation]))
        times = time_BD.split([sample.t.shape[0] for sample in generation])
        patches = _at_once(self.pixels.patch_in, [sample.noisy.to(dtype) for sample in generation])
        for index, sample in enumerate(generation):
            tokens[index, "pixel"] = self.pixels.place(patches[index], times[index], self.pixel_grid(sample.size))
        if self.representation is not None:
            values = [sample.representation for sample in generation if sample.representation is not None]
            identities = zip(_at_once(self.representation.identity, values), generation, strict=True)
            for index, (identity, sample) in enumerate(identities):
                grid = self.feature_grid(sample.size)
                tokens[index, "representation"] = self.representation.place(identity, sample.representation_dropped, grid)
        return time_BD, tokens

    def _embed_seen(self, understanding: Sequence[UnderstandingInput], first: int) -> BySpan:
        """(group, "image") -> image tokens; groups are numbered from `first`."""
        seen = [(index, one.images) for index, one in enumerate(understanding, start=first) if one.images is not None]
        embedded = self.embed_images([images for _, images in seen]) if seen else []
        return {(index, "image"): tokens for (index, _), tokens in zip(seen, embedded, strict=True)}

    def _read_generation(self, states: BySpan, middle: BySpan, count: int) -> list[GenerationOutput]:
        """What the hidden states of the first `count` groups predict."""
        indices = range(count)
        clean = _at_once(self.predict_clean, [states[index, "pixel"] for index in indices])
        predicted: list[Tensor | None] = [None for _ in indices]
        aligned: list[Tensor | None] = [None for _ in indices]
        if self.representation is not None:
            predicted = [*_at_once(self.representation.predict, [states[index, "representation"][:, :-1] for index in indices])]
        if self.alignment is not None:
            aligned = [*_at_once(self.alignment, [middle[index, "pixel"] for index in indices])]
        return [GenerationOutput(states[index, "text"], predicted[index], clean[index], aligned[index]) for index in indices]

    def _with_empty_groups(
        self, generation: Sequence[GenerationInput], understanding: Sequence[UnderstandingInput]
    ) -> tuple[Sequence[GenerationInput], Sequence[UnderstandingInput]]:
        """The inputs, and groups of no samples of the kinds that they lack."""
        device, size = self.text_embedding.weight.device, (self.config.image_stride,) * 2
        no_text = torch.zeros(0, 1, dtype=torch.int64, device=device)
        if self.pixels is not None and not generation:
            values = None if self.representation is None else self.representation.zeros(0, prod(self.feature_grid(size)))
            noisy = torch.zeros(0, prod(self.pixel_grid(size)), self.pixels.patch_in.in_features, device=device)
            generation = [GenerationInput(no_text, noisy, torch.zeros(0, device=device), values, size=size)]
        if not any(question.images is not None for question in understanding):
            side = size[0] if encoder_of(self.config.model.encoder).takes_any_size else self.config.max_image_size
            images = torch.zeros(0, 3, side, side, device=device)
            understanding = [*understanding, UnderstandingInput(images, no_text)]
        return generation, understanding

    def text_cross_entropy(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """Sum of next-token cross-entropies, float32, of hidden states [M, D] and the ids int64 [M] that follow them.

        Logits are made for some rows at a time and made again in the backward pass: all of a pack's, over a vocabulary of 150
        thousand, would not fit beside the model.
        """

        def some(hidden: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.text_logits(hidden).float(), targets, reduction="sum")

        if hidden_MD.shape[0] <= TEXT_ROWS:
            return some(hidden_MD, targets_M)
        pairs = zip(hidden_MD.split(TEXT_ROWS), targets_M.split(TEXT_ROWS), strict=True)
        return torch.stack([checkpoint(some, *pair, use_reentrant=False) for pair in pairs]).sum()

    def text_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.text_head(self.text_norm(hidden))

    def predict_clean(self, hidden: Tensor) -> Tensor:
        """Pixel tokens' hidden states [B, P, D] -> predicted clean patches, float32 [B, P, C]."""
        assert self.pixels is not None
        return self.pixels.predict(hidden)

    # Sampling with a cache

    def extend(self, caches: list[KVCache], layout: SampleLayout, tokens: Tensor) -> Tensor:
        """Runs fresh context tokens [B, S, D] after what the caches hold and stores them; returns hidden [B, S, D]."""
        packed = PackedLayout((Group(layout, tokens.shape[0]),))
        return self._run(tokens, packed, None, caches, commit=True)

    def contexts_of(self, layout: SampleLayout, count: int) -> tuple[PackContext, ...]:
        """Of each fresh token of a layout alone, which are of its last span, for `count` samples."""
        like = next(self.decoder.parameters())
        return token_contexts(layout, count, self.decoder.config, like.dtype, like.device)

    def denoise(self, caches: list[KVCache], layout: SampleLayout, noisy: Tensor, t: Tensor, grid: Grid | None = None) -> Tensor:
        """Predicted clean patches of noisy ones [B, P, C] at times t [B], given cached text and representation."""
        assert self.pixels is not None
        packed = PackedLayout((Group(layout, noisy.shape[0]),))
        time_BD = self.pixels.time(t)
        return self.predict_clean(self._run(self.pixels.embed(noisy, time_BD, grid), packed, time_BD, caches, commit=False))

    def _run(self, tokens: Tensor, packed: PackedLayout, time_BD: Tensor | None, caches: list[KVCache], commit: bool) -> Tensor:
        """Tokens of one group in sample order through the decoder, and back in sample order."""
        (group,) = packed.groups
        blocks = [(packed.blocks[0, span], bounds) for span, bounds in enumerate(group.layout.fresh_bounds)]
        blocks = sorted(((rows, bounds) for rows, bounds in blocks if bounds[1] > bounds[0]), key=lambda item: item[0].start)
        if len(blocks) == 1:  # one span: the two orders are one
            return self.decoder(tokens.flatten(0, 1), packed, time_BD, caches, commit)[0].view_as(tokens)
        x_TD = torch.cat([tokens[:, first:stop].flatten(0, 1) for _, (first, stop) in blocks])
        hidden_TD, _, _ = self.decoder(x_TD, packed, time_BD, caches, commit)
        result = torch.empty_like(tokens)
        for rows, (first, stop) in blocks:
            result[:, first:stop] = hidden_TD[rows].view(tokens.shape[0], stop - first, -1)
        return result


def _at_once(function: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """A function of single tokens for several groups [B, L, ...] in one call: on a GPU, dozens of small ones cost more than their
    work, and each use of an embedding table a gradient of its whole size."""
    if len(parts) == 1:
        return [function(parts[0])]
    if not parts:
        return []
    results = function(torch.cat([part.flatten(0, 1) for part in parts])).split([part.shape[:2].numel() for part in parts])
    return [result.view(*part.shape[:2], *result.shape[1:]) for result, part in zip(results, parts, strict=True)]


def _cells(size: Size, patch: int) -> Grid:
    return (size[0] // patch, size[1] // patch)


def _by_span(packed: PackedLayout, states_TD: Tensor) -> BySpan:
    """States by group and kind of tokens, each [B, L, D]."""
    parts = states_TD.split([rows.stop - rows.start for rows in packed.blocks.values()])
    found: BySpan = {}
    for (index, span), part in zip(packed.blocks, parts, strict=True):
        group = packed.groups[index]
        found[index, group.layout.spans[span].kind] = part.view(
            group.num_samples, group.layout.spans[span].length, states_TD.shape[1]
        )
    return found
