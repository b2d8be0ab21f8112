"""The unified model: encoder, connector, decoder, and the ways in and out for text, representation and pixel tokens.

B samples of a group, N representation tokens, P generation tokens ("pixels", also where they hold VAE latents) of C numbers,
D width, V vocabulary, K codes, F width of the encoder's features, H x W pixels of an image: those of one group are alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass
from torch.utils.checkpoint import checkpoint

from rf_repro.config.schema import EncoderConfig, ExperimentConfig
from rf_repro.data.packing import PackedBatch, Size
from rf_repro.maths.layers import RMSNorm, TimeEmbedding, pool_2x2, sincos_2d, upper_left
from rf_repro.model.attention import KVCache
from rf_repro.model.encoder import VisionTransformer
from rf_repro.model.layout import Grid, Group, PackedLayout, Pool, SampleLayout, Span, SpanKind
from rf_repro.model.mot import MixtureOfTransformers
from rf_repro.model.space import patch_dim
from rf_repro.representation.alignment import Projector
from rf_repro.representation.tokens import ContinuousTokens, DiscreteTokens, RepresentationTokens

if TYPE_CHECKING:
    from rf_repro.model.pretrained_encoder import PretrainedEncoder

TEXT_ROWS = 4096  # rows of logits at a time


@dataclass(frozen=True)
class GenerationInput:
    """`[text | representation | pixels]` samples of one layout.

    text_ids int64 [B, T] (null text where dropped); noisy float [B, P, C]; t float [B]; representation: codes int64 [B, N],
    or features float [B, N, F], or None; representation_dropped bool [B] or None; size: (H, W) in pixels, None: the largest.
    """

    text_ids: Tensor
    noisy: Tensor
    t: Tensor
    representation: Tensor | None = None
    representation_dropped: Tensor | None = None
    size: Size | None = None


@dataclass(frozen=True)
class UnderstandingInput:
    """`[image features | text]` samples of one layout, or text alone: images [B, 3, H, W] in [-1, 1] or None, text_ids int64
    [B, T]."""

    images: Tensor | None
    text_ids: Tensor


@dataclass(frozen=True)
class GenerationOutput:
    """text_hidden [B, T, D]; representation: what predicts the tokens, logits [B, N, K] where they are discrete, or None; clean
    float32 [B, P, C], the predicted x; aligned: the projected middle layer of pixel tokens [B, P, F] under REPA, or None."""

    text_hidden: Tensor
    representation: Tensor | None
    clean: Tensor
    aligned: Tensor | None


@dataclass(frozen=True)
class ForwardOutput:
    """A GenerationOutput for each generation group; text hidden states [B, T, D] of each understanding group; the mean
    load-balancing loss of the expert pools, float32 scalar."""

    generation: list[GenerationOutput]
    understanding: list[Tensor]
    balance: Tensor


# FSDP2 looks for the tensors in what a module returns.
for _output in (GenerationOutput, ForwardOutput):
    register_dataclass(_output)


class PixelTokens(nn.Module):
    """Pixel (or latent) patches in and out: linear embedding with 2D positions and time, linear head that predicts clean x.

    `grid`: patches a side of the largest image; positions of smaller ones are its upper left corner.
    """

    def __init__(self, width: int, token_dim: int, grid: int, additive_time: bool, norm_eps: float) -> None:
        super().__init__()
        self.grid: Grid = (grid, grid)
        self.additive_time = additive_time
        self.patch_in = nn.Linear(token_dim, width)
        self.position = nn.Parameter(sincos_2d(grid, width, extent=grid))
        self.time = TimeEmbedding(width)
        self.norm = RMSNorm(width, norm_eps)
        self.head = nn.Linear(width, token_dim)

    def embed(self, noisy: Tensor, time_BD: Tensor, grid: Grid | None = None) -> Tensor:
        """[B, P, C] -> [B, P, D]. `grid`: rows and columns of patches; None: of the largest image."""
        return self.place(self.patch_in(noisy.to(self.patch_in.weight.dtype)), time_BD, grid)

    def place(self, patches: Tensor, time_BD: Tensor, grid: Grid | None) -> Tensor:
        """As `embed`, from embedded patches [B, P, D]."""
        tokens = patches + upper_left(self.position, grid or self.grid)
        return tokens + time_BD[:, None] if self.additive_time else tokens


def build_encoder(config: EncoderConfig, image_size: int) -> "VisionTransformer | PretrainedEncoder":
    """The understanding encoder of that kind, with random weights; `image_size`: pixels a side, of `vit` alone."""
    if config.kind == "vit":
        return VisionTransformer(config, image_size)
    from rf_repro.model.pretrained_encoder import PretrainedEncoder

    return PretrainedEncoder(config)


class RFModel(nn.Module):
    """Everything that is trained. Variants differ in which ways in and out exist."""

    def __init__(self, config: ExperimentConfig, vocab_size: int) -> None:
        super().__init__()
        decoder, image_size = config.model.decoder, config.max_image_size
        width, eps = decoder.width, decoder.norm_eps
        self.config = config
        self.encoder = build_encoder(config.model.encoder, image_size)
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
        self.representation: RepresentationTokens | None = None
        self.pixels: PixelTokens | None = None
        if config.model.pixel.space != "none":
            pools.append("pixel")
            additive = decoder.time_conditioning == "additive"
            self.pixels = PixelTokens(width, patch_dim(config.model), pixel_grid, additive, eps)
        representation, feature_dim = config.representation, config.model.encoder.width
        if representation.kind == "discrete":
            self.representation = DiscreteTokens(width, representation.codebook_size, feature_grid, pixel_grid, eps)
        elif representation.kind == "continuous":
            self.representation = ContinuousTokens(width, feature_dim, feature_grid, pixel_grid, eps, representation.continuous)
        if self.representation is not None:
            pools.append("representation")
        self.alignment: Projector | None = None
        if representation.kind == "repa":
            self.alignment = Projector(width, representation.alignment.width, feature_dim)
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
        groups: list[Group] = []
        embeddings: dict[tuple[int, SpanKind], Tensor] = {}
        time_BD: Tensor | None = None
        ids = [sample.text_ids for sample in generation] + [question.text_ids for question in understanding]
        texts = _at_once(self.text_embedding, ids)
        if generation:
            assert self.pixels is not None
            dtype = self.pixels.patch_in.weight.dtype
            time_BD = self.pixels.time(torch.cat([sample.t for sample in generation]))
            times = time_BD.split([sample.t.shape[0] for sample in generation])
            patches = _at_once(self.pixels.patch_in, [sample.noisy.to(dtype) for sample in generation])
            for index, sample in enumerate(generation):
                layout = self.generation_layout(sample.text_ids.shape[1], size=sample.size)
                groups.append(Group(layout, sample.text_ids.shape[0]))
                embeddings[index, "pixel"] = self.pixels.place(patches[index], times[index], self.pixel_grid(sample.size))
            if self.representation is not None:
                values = [sample.representation for sample in generation if sample.representation is not None]
                identities = zip(_at_once(self.representation.identity, values), generation, strict=True)
                for index, (identity, sample) in enumerate(identities):
                    grid = self.feature_grid(sample.size)
                    embeddings[index, "representation"] = self.representation.place(identity, sample.representation_dropped, grid)
        seen = [question.images for question in understanding if question.images is not None]
        embedded = iter(self.embed_images(seen) if seen else [])
        for index, question in enumerate(understanding, start=len(groups)):
            size = None if question.images is None else (question.images.shape[2], question.images.shape[3])
            layout = self.understanding_layout(question.text_ids.shape[1], size is not None, size)
            groups.append(Group(layout, question.text_ids.shape[0]))
            if size is not None:
                embeddings[index, "image"] = next(embedded)
        embeddings |= {(index, "text"): text for index, text in enumerate(texts)}

        packed = PackedLayout(tuple(groups))
        ordered = [embeddings[index, groups[index].layout.spans[span].kind] for index, span in packed.blocks]
        x_TD = torch.cat([tokens.flatten(0, 1) for tokens in ordered])
        tap = self.config.representation.alignment.layer if self.alignment is not None else 0
        hidden_TD, middle_TD, balance = self.decoder(x_TD, packed, time_BD, tap=tap)

        def part(index: int, kind: SpanKind, states_TD: Tensor = hidden_TD) -> Tensor:
            length = next(span.length for span in groups[index].layout.spans if span.kind == kind)
            return states_TD[packed.rows(kind, index)].view(groups[index].num_samples, length, states_TD.shape[1])

        indices = range(len(generation))
        clean = _at_once(self.predict_clean, [part(index, "pixel") for index in indices])
        predicted: list[Tensor | None] = [None for _ in indices]
        aligned: list[Tensor | None] = [None for _ in indices]
        if self.representation is not None:
            predicted = [*_at_once(self.representation.predict, [part(index, "representation")[:, :-1] for index in indices])]
        if self.alignment is not None:
            aligned = [*_at_once(self.alignment, [part(index, "pixel", middle_TD) for index in indices])]
        outputs = [
            GenerationOutput(part(index, "text"), predicted[index], clean[index], aligned[index])
            for index in range(num_generation)
        ]
        answers = [part(index, "text") for index in range(len(generation), len(generation) + num_understanding)]
        return ForwardOutput(outputs, answers, balance)

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
            side = size[0] if self.config.data.world != "scenes" else self.config.max_image_size
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
        return self.pixels.head(self.pixels.norm(hidden)).float()

    # Sampling with a cache

    def extend(self, caches: list[KVCache], layout: SampleLayout, tokens: Tensor) -> Tensor:
        """Runs fresh context tokens [B, S, D] after what the caches hold and stores them; returns hidden [B, S, D]."""
        packed = PackedLayout((Group(layout, tokens.shape[0]),))
        return self._run(tokens, packed, None, caches, commit=True)

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
