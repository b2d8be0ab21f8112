"""Ours, at the size of the contest."""

from dataclasses import replace
from math import isqrt

import torch

from benchmarks.peers.contest import Size
from rf_repro.compute.compiled import compile_layers
from rf_repro.config.model_schema import DecoderConfig, PixelConfig
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import SamplingConfig
from rf_repro.data.packing import TextTokens
from rf_repro.model.initialise import initialise
from rf_repro.model.layout import Group, PackedLayout, SampleLayout, Span
from rf_repro.model.mot import MixtureOfTransformers
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.sample.sampler import Sampler

PATCH = 4  # pixels of a generation token's side


def decoder_config(size: Size, time_conditioning: str = "additive") -> DecoderConfig:
    return DecoderConfig(
        width=size.width, num_layers=size.layers, num_heads=size.heads, num_kv_heads=size.heads, head_dim=size.head_dim,
        ffn_width=size.inner, time_conditioning=time_conditioning,  # type: ignore[arg-type]
    )  # fmt: skip


def sample_layout(size: Size) -> SampleLayout:
    """`[text | representation | pixels]`."""
    grids = [(isqrt(count), isqrt(count)) for count in (size.representation, size.pixels)]
    assert [rows * columns for rows, columns in grids] == [size.representation, size.pixels], "squares"
    return SampleLayout(
        (
            Span("text", size.text), Span("representation", size.representation, grids[0]), Span("pixel", size.pixels, grids[1])
        )
    )  # fmt: skip


def packed_layout(size: Size) -> PackedLayout:
    return PackedLayout((Group(sample_layout(size), size.samples),))


def decoder(size: Size, device: torch.device, dtype: torch.dtype, time_conditioning: str = "additive") -> MixtureOfTransformers:
    model = MixtureOfTransformers(decoder_config(size, time_conditioning))
    initialise(model, 0)
    return model.to(device, dtype)


def compiled(model: MixtureOfTransformers) -> MixtureOfTransformers:
    """The same decoder with its blocks compiled, as in training."""
    compile_layers(model)
    return model


def sampler(
    size: Size, num_representation: int, num_pixels: int, sampling: SamplingConfig, device: torch.device, dtype: torch.dtype
) -> Sampler:
    """A whole model with that decoder. Its encoder is the smallest there is: nothing here runs it."""
    side, tiny = isqrt(num_pixels) * PATCH, get_scale("tiny")
    encoder = replace(tiny.model.encoder, num_layers=1, patch_size=side // isqrt(num_representation) // 2)
    config = replace(
        tiny,
        model=replace(tiny.model, decoder=decoder_config(size), encoder=encoder, pixel=PixelConfig(patch_size=PATCH)),
        data=replace(tiny.data, scenes=replace(tiny.data.scenes, image_size=side)),
        representation=RepresentationConfig(kind="discrete", codebook_size=size.codes),
    )
    model = RFModel(config, size.codes)
    initialise(model, 0)
    return Sampler(model.to(device, dtype).eval(), PixelSpace(PATCH), sampling, TextTokens(0, 1, 2))
