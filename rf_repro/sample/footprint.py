"""Bytes that sampling and answering need beside the weights: whether a model goes whole on a device follows from them.
`rf-repro estimate --inference` shows the same.

Not counted: the temporaries of small elementwise operations, an allocator's fragmentation.

B samples of a batch, T text tokens, N representation tokens, P generation tokens, D width; b bytes of a number of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import Size
from rf_repro.model.encoders import encoder_of
from rf_repro.model.layout import POOLS, Pool
from rf_repro.model.spaces import space_of
from rf_repro.representation.kinds import representation_of

FP32, INT64 = 4, 8
VAE_MAPS = 3  # assumed: feature maps at full resolution that are live together while the VAE decodes


@dataclass(frozen=True)
class Tokens:
    """Tokens of an image to make. `representation` counts the start token; 0: the kind has none."""

    text: int
    representation: int
    pixel: int

    @property
    def prefix(self) -> int:
        """What pixels are given: text and representation."""
        return self.text + self.representation

    @property
    def total(self) -> int:
        return self.prefix + self.pixel


def tokens_of(config: ExperimentConfig, size: Size, num_text: int) -> Tokens:
    """Of an image (H, W) in pixels with a text of so many tokens."""
    feature, pixel = 2 * config.model.encoder.patch_size, config.model.pixel.patch_size
    representation = 1 + size[0] * size[1] // feature**2 if representation_of(config).has_tokens else 0
    return Tokens(num_text, representation, size[0] * size[1] // pixel**2)


def kv_bytes(decoder: DecoderConfig, number_bytes: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * number_bytes


def parked_bytes(config: ExperimentConfig, tokens: Tokens, samples: int, number_bytes: int) -> int:
    """Keys and values of samples between two phases (rf_repro.sample.phases)."""
    return samples * tokens.prefix * kv_bytes(config.model.decoder, number_bytes)


def sampling_bytes(
    config: ExperimentConfig, size: Size, tokens: Tokens, batch: int, number_bytes: int, phases: bool
) -> dict[Pool, dict[str, int]]:
    """Pool -> component -> bytes at the peak of the work that it does for one batch. With guidance each sample counts twice.

    Args:
        phases: whether texts are read in a pass of their own; else with the start token, by a whole model.
    """
    b, decoder, sampling = number_bytes, config.model.decoder, config.sampling
    space, kind = space_of(config.model), representation_of(config)
    found: dict[Pool, dict[str, int]] = {
        "understanding": {
            "kv_caches": batch * tokens.text * kv_bytes(decoder, b),
            "activations": block_bytes(decoder, batch * tokens.text, tokens.text, b),
        }
    }
    if tokens.representation:
        rows = batch * (1 + (sampling.cfg_representation != 1))
        if phases:
            # While caches get room, layer by layer: a layer's as they were, and its keys or values of both branches without room.
            first = (2 * batch + rows) * tokens.text * kv_bytes(decoder, b) // (2 * decoder.num_layers)
        else:
            first = block_bytes(decoder, rows * (tokens.text + 1), tokens.text + 1, b, spans=2)
        found["representation"] = {
            "kv_caches": rows * tokens.prefix * kv_bytes(decoder, b),
            "activations": max(first, block_bytes(decoder, rows, tokens.prefix, b)),
            "logits": 3 * FP32 * rows * kind.cost(config, b).codes,
        }
    rows = batch * (1 + (sampling.cfg_pixel != 1))
    numbers = tokens.pixel * space.token_dim(config.model)
    denoising = {
        "kv_caches": rows * tokens.prefix * kv_bytes(decoder, b),
        # No pixel stays in the caches: a layer's are copied, with those of pixels behind them.
        "activations": block_bytes(decoder, rows * tokens.pixel, tokens.total, b, joined=rows * tokens.total),
        # z and the guided prediction; z for each branch, and what the step before predicted.
        "noisy_tokens": FP32 * 2 * (batch + rows) * numbers,
    }
    # Caches are still there while images are decoded; a space without a VAE only puts patches in order.
    decoding = {
        "kv_caches": denoising["kv_caches"],
        "images": FP32 * batch * size[0] * size[1] * 3 * 2,
        "vae_activations": round(VAE_MAPS * FP32 * space.widest(config.model) * batch * size[0] * size[1]),
    }
    found["pixel"] = max(denoising, decoding, key=lambda parts: sum(parts.values()))
    return {pool: {name: size for name, size in found[pool].items() if size} for pool in POOLS if pool in found}


def answering_bytes(
    config: ExperimentConfig, size: Size, num_text: int, batch: int, number_bytes: int
) -> dict[Pool, dict[str, int]]:
    """As `sampling_bytes`, of questions about one image each: the encoder and the decoder follow each other."""
    b, decoder, encoder = number_bytes, config.model.decoder, config.model.encoder
    patches = size[0] * size[1] // encoder.patch_size**2
    encoded = patches + encoder_of(encoder).prefix_tokens(encoder)
    length = patches // 4 + num_text
    caches = batch * length * kv_bytes(decoder, b)
    reading = {
        "kv_caches": caches,
        # Besides, images and text as they were embedded, each for itself.
        "activations": block_bytes(decoder, batch * length, length, b, spans=2) + batch * length * decoder.width * b,
    }
    seeing = {
        "images": batch * 3 * size[0] * size[1] * (FP32 + b),
        "encoder_activations": batch * encoded * b * (6 * encoder.width + 4 * encoder.ffn_width),
    }
    return {"understanding": max(reading, seeing, key=lambda parts: sum(parts.values()))}


def block_bytes(decoder: DecoderConfig, tokens: int, keys: int, number_bytes: int, spans: int = 1, joined: int = 0) -> int:
    """Largest sum of what is live in a decoder block without gradient.

    Args:
        tokens: fresh ones, of all rows.
        keys: a row's fresh and cached tokens.
        spans: kinds of fresh tokens, which are stored one after another.
        joined: cached and fresh tokens, of all rows, whose keys and values are copied to be in one row. Those that stay in the
            caches are written there.
    """
    b, d, f = number_bytes, decoder.width, decoder.ffn_width
    H, K, h = decoder.num_heads, decoder.num_kv_heads, decoder.head_dim
    # Around a block: its tokens, the same in storage order if that is another, its input; rotary tables.
    outside = tokens * b * ((2 + (spans > 1)) * d + 2 * h)
    # The result, and a row's keys and values with those in its cache.
    attending = tokens * H * h + 2 * joined * K * h
    if spans > 1:
        # Queries, keys and values sample by sample, the results of runs and all of them; or these, their spans, and those in
        # storage order.
        attending = tokens * max((H + 2 * K) * h + 2 * H * h, 3 * H * h)
    # Normalised input; queries, keys and values as computed; rotated queries and keys, and beside them the same not yet rotated.
    attention = tokens * b * (d + (H + 2 * K) * h + (H + K) * h) + b * max(tokens * (H + K) * h, attending)
    if decoder.distance_bias:  # dense scores: with their bias, and as probabilities
        attention += 2 * tokens * keys * H * b
    # After attention, and normalised; then inside: gate and up, silu, product; or the product and the result; or the result, and
    # all pools' with what was added.
    if decoder.num_experts:
        k = decoder.num_active_experts
        # Of each choice besides its row: the same, weighted; or the result beside that in the tokens' order; its place there and
        # back, and its expert.
        choice = b * (d + max(4 * f, d + 2 * f, 2 * d)) + 3 * INT64
        feed_forward = tokens * (2 * d * b + k * choice + 2 * FP32 * decoder.num_experts)
    else:
        feed_forward = tokens * b * (2 * d + max(4 * f, d + f, 2 * d))
    return outside + max(attention, feed_forward)


def peak(phases: Mapping[Pool, Mapping[str, int]]) -> int:
    """The most of any phase."""
    return max(sum(parts.values()) for parts in phases.values())
