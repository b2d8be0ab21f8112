"""The unified model: encoder, connector, decoder, and the ways in and out for text, representation and pixel tokens.

B samples of a group, N representation tokens, P generation tokens ("pixels", also where they hold VAE latents) of C numbers,
D width, V vocabulary, K codes, F width of the encoder's features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packing import PackedBatch
from rf_repro.model.attention import KVCache
from rf_repro.model.encoder import VisionTransformer
from rf_repro.model.layers import RMSNorm, TimeEmbedding, pool_2x2, sincos_2d
from rf_repro.model.layout import Group, PackedLayout, Pool, SampleLayout, Span, SpanKind
from rf_repro.model.mot import MixtureOfTransformers
from rf_repro.model.representation_tokens import ContinuousTokens, DiscreteTokens, RepresentationTokens
from rf_repro.model.space import patch_dim
from rf_repro.representation.alignment import Projector


@dataclass(frozen=True)
class GenerationInput:
    """`[text | representation | pixels]` samples of one layout.

    text_ids int64 [B, T] (null text where dropped); noisy float [B, P, C]; t float [B]; representation: codes int64 [B, N],
    or features float [B, N, F], or None; representation_dropped bool [B] or None.
    """

    text_ids: Tensor
    noisy: Tensor
    t: Tensor
    representation: Tensor | None = None
    representation_dropped: Tensor | None = None


@dataclass(frozen=True)
class UnderstandingInput:
    """`[image features | text]` samples of one layout, or text alone: images [B, 3, S, S] in [-1, 1] or None, text_ids int64
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


class PixelTokens(nn.Module):
    """Pixel (or latent) patches in and out: linear embedding with 2D positions and time, linear head that predicts clean x."""

    def __init__(self, width: int, token_dim: int, grid: int, additive_time: bool, norm_eps: float) -> None:
        super().__init__()
        self.grid, self.additive_time = grid, additive_time
        self.patch_in = nn.Linear(token_dim, width)
        self.position = nn.Parameter(sincos_2d(grid, width, extent=grid))
        self.time = TimeEmbedding(width)
        self.norm = RMSNorm(width, norm_eps)
        self.head = nn.Linear(width, token_dim)

    def embed(self, noisy: Tensor, time_BD: Tensor) -> Tensor:
        """[B, P, C] -> [B, P, D]."""
        tokens = self.patch_in(noisy.to(self.patch_in.weight.dtype)) + self.position
        return tokens + time_BD[:, None] if self.additive_time else tokens


class RFModel(nn.Module):
    """Everything that is trained. Variants differ in which ways in and out exist."""

    def __init__(self, config: ExperimentConfig, vocab_size: int) -> None:
        super().__init__()
        decoder, image_size = config.model.decoder, config.data.scenes.image_size
        if config.data.world != "scenes":
            raise UserError(
                f"scale {config.scale!r}: data.world={config.data.world} cannot be trained by this version; its configuration "
                "can be printed and checked. Choose tiny or smoke"
            )
        width, eps = decoder.width, decoder.norm_eps
        self.config = config
        self.encoder = VisionTransformer(config.model.encoder, image_size)
        feature_grid = image_size // config.model.encoder.patch_size // 2
        pixel_grid = image_size // config.model.pixel.patch_size
        self.connector = nn.Sequential(
            nn.Linear(config.model.encoder.width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.image_position = nn.Parameter(sincos_2d(feature_grid, width, extent=feature_grid))
        self.feature_grid = feature_grid
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

    def generation_layout(self, num_text: int, num_representation: int | None = None, with_pixels: bool = True) -> SampleLayout:
        """`[text | start + representation | pixels]`; `num_representation` tokens so far, or all (None)."""
        spans = [Span("text", num_text)]
        if self.representation is not None:
            grid = self.representation.grid
            count = grid**2 if num_representation is None else num_representation
            spans.append(Span("representation", 1 + count, grid if count == grid**2 else 0))
        if with_pixels and self.pixels is not None:
            spans.append(Span("pixel", self.pixels.grid**2, self.pixels.grid))
        return SampleLayout(tuple(spans))

    def understanding_layout(self, num_text: int, with_image: bool = True) -> SampleLayout:
        """`[image features | text]`, or text alone."""
        image = (Span("image", self.feature_grid**2, self.feature_grid),) if with_image else ()
        return SampleLayout((*image, Span("text", num_text)))

    def num_tokens(self, batch: PackedBatch) -> int:
        """Tokens of the packed sequence; masked images count their patches."""
        count = sum(len(g.text_ids) * self.generation_layout(g.text_ids.shape[1]).length for g in batch.generation)
        for group in batch.understanding:
            layout = self.understanding_layout(group.text_ids.shape[1], group.images is not None)
            count += len(group.text_ids) * layout.length
        return count + (0 if batch.masked_images is None else len(batch.masked_images) * self.encoder.grid**2)

    # Ways in

    def embed_images(self, images: Tensor) -> Tensor:
        """Understanding images [B, 3, S, S] -> [B, N, D]: encoder, final norm, 2x2 pooling (assumed), connector MLP."""
        features = pool_2x2(self.encoder.norm(self.encoder(images.to(self.image_position.dtype))))
        return self.connector(features) + self.image_position

    # Forward

    def forward(
        self, generation: Sequence[GenerationInput], understanding: Sequence[UnderstandingInput]
    ) -> tuple[list[GenerationOutput], list[Tensor]]:
        """One pass over a pack.

        Returns:
            A GenerationOutput for each generation group, and text logits [B, T, V] for each understanding group.
        """
        groups, embeddings, times = [], {}, []
        for index, sample in enumerate(generation):
            assert self.pixels is not None
            layout = self.generation_layout(sample.text_ids.shape[1])
            groups.append(Group(layout, sample.text_ids.shape[0]))
            times.append(self.pixels.time(sample.t))
            embeddings[index, "text"] = self.text_embedding(sample.text_ids)
            if self.representation is not None:
                assert sample.representation is not None
                embeddings[index, "representation"] = self.representation.embed(
                    sample.representation, sample.representation_dropped
                )
            embeddings[index, "pixel"] = self.pixels.embed(sample.noisy, times[-1])
        for index, question in enumerate(understanding, start=len(groups)):
            layout = self.understanding_layout(question.text_ids.shape[1], question.images is not None)
            groups.append(Group(layout, question.text_ids.shape[0]))
            if question.images is not None:
                embeddings[index, "image"] = self.embed_images(question.images)
            embeddings[index, "text"] = self.text_embedding(question.text_ids)

        packed = PackedLayout(tuple(groups))
        ordered = [embeddings[index, groups[index].layout.spans[span].kind] for index, span in packed.blocks]
        x_TD = torch.cat([tokens.flatten(0, 1) for tokens in ordered])
        time_BD = torch.cat(times) if times else None
        tap = self.config.representation.alignment.layer if self.alignment is not None else 0
        hidden_TD, middle_TD = self.decoder(x_TD, packed, time_BD, tap=tap)

        def part(index: int, kind: SpanKind, states_TD: Tensor = hidden_TD) -> Tensor:
            return states_TD[packed.rows(kind, index)].view(groups[index].num_samples, -1, states_TD.shape[1])

        outputs = []
        for index in range(len(generation)):
            assert self.pixels is not None
            predicted = aligned = None
            if self.representation is not None:
                predicted = self.representation.predict(part(index, "representation")[:, :-1])
            if self.alignment is not None:
                aligned = self.alignment(part(index, "pixel", middle_TD))
            clean = self.predict_clean(part(index, "pixel"))
            outputs.append(GenerationOutput(part(index, "text"), predicted, clean, aligned))
        answers = [self.text_logits(part(index, "text")) for index in range(len(generation), len(groups))]
        return outputs, answers

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

    def denoise(self, caches: list[KVCache], layout: SampleLayout, noisy: Tensor, t: Tensor) -> Tensor:
        """Predicted clean patches of noisy ones [B, P, C] at times t [B], given cached text and representation."""
        assert self.pixels is not None
        packed = PackedLayout((Group(layout, noisy.shape[0]),))
        time_BD = self.pixels.time(t)
        return self.predict_clean(self._run(self.pixels.embed(noisy, time_BD), packed, time_BD, caches, commit=False))

    def _run(self, tokens: Tensor, packed: PackedLayout, time_BD: Tensor | None, caches: list[KVCache], commit: bool) -> Tensor:
        """Tokens of one group in sample order through the decoder, and back in sample order."""
        (group,) = packed.groups
        blocks = [(packed.blocks[0, span], bounds) for span, bounds in enumerate(group.layout.fresh_bounds)]
        blocks = sorted(((rows, bounds) for rows, bounds in blocks if bounds[1] > bounds[0]), key=lambda item: item[0].start)
        x_TD = torch.cat([tokens[:, first:stop].flatten(0, 1) for _, (first, stop) in blocks])
        hidden_TD, _ = self.decoder(x_TD, packed, time_BD, caches, commit)
        result = torch.empty_like(tokens)
        for rows, (first, stop) in blocks:
            result[:, first:stop] = hidden_TD[rows].view(tokens.shape[0], stop - first, -1)
        return result
