"""Small configurations and random inputs, written out here so that tuning a scale never moves a test."""

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.config.model_schema import DecoderConfig, EncoderConfig, ModelConfig, PixelConfig
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.config.schema import EvalConfig, ExperimentConfig, SamplingConfig
from rf_repro.config.training_schema import MixtureConfig, OptimConfig, StageConfig
from rf_repro.data.packing import TextTokens
from rf_repro.model.initialise import initialise
from rf_repro.model.inputs import GenerationInput, GenerationOutput, UnderstandingInput
from rf_repro.model.rf_model import RFModel
from rf_repro.representation.discrete import DiscreteTokens

VOCAB = 23
TOKENS = TextTokens(pad=0, bos=1, null=3)


def small_config(**overrides: object) -> ExperimentConfig:
    """24 pixels, 4x4 representation tokens over 6x6 patches, width 32, grouped-query attention, fp32.

    `overrides` are dotted paths with `__` for the dot.
    """
    base = ExperimentConfig(
        scale="small_test",
        stages=(
            StageConfig(
                name="joint", steps=8, learning_rate=2e-3, warmup_steps=3, mixture=MixtureConfig(generation=4, understanding=3)
            ),
        ),
        model=ModelConfig(
            DecoderConfig(width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48),
            EncoderConfig(width=24, num_layers=1, num_heads=3, ffn_width=32, patch_size=3),
            PixelConfig(patch_size=4),
        ),
        representation=RepresentationConfig(kind="discrete", codebook_size=16, momentum=0.9, warmup_batches=2),
        optim=OptimConfig(betas=(0.9, 0.98), weight_decay=0.01, ema_decay=0.9, precision="fp32"),
        sampling=SamplingConfig(steps=4, top_k=8, shift_base_patches=36),
        evals=EvalConfig(images_per_task=1, curve_images_per_task=1, every=0),
        checkpoint_every=2,
    )
    base = replace(base, data=replace(base.data, scenes=ScenesConfig(num_train=64)))
    return apply_overrides(base, {path.replace("__", "."): value for path, value in overrides.items()})


def small_model(config: ExperimentConfig | None = None, seed: int = 0) -> RFModel:
    """A model whose every parameter is random: what starts at zero or one does not stay there, so nothing hides."""
    model = RFModel(config or small_config(), VOCAB)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def generation_input(model: RFModel, count: int, num_text: int, seed: int = 0, dropped: bool = True) -> GenerationInput:
    """Random samples of one layout; with `dropped`, every second sample's representation is dropped."""
    assert model.pixels is not None
    generator = torch.Generator().manual_seed(seed)
    values = flags = None
    if model.representation is not None:
        size = (count, prod(model.representation.grid))
        if isinstance(model.representation, DiscreteTokens):
            values = torch.randint(model.representation.identity.num_embeddings, size, generator=generator)
        else:
            values = torch.randn(*size, model.config.model.encoder.width, generator=generator)
        flags = (torch.arange(count) % 2 == 1) & dropped
    return GenerationInput(
        text_ids=torch.randint(4, VOCAB, (count, num_text), generator=generator),
        noisy=torch.randn(count, prod(model.pixels.grid), model.pixels.patch_in.in_features, generator=generator),
        t=torch.rand(count, generator=generator),
        representation=values,
        representation_dropped=flags,
    )


def understanding_input(model: RFModel, count: int, num_text: int, seed: int = 0) -> UnderstandingInput:
    """Random images and answers."""
    generator = torch.Generator().manual_seed(seed)
    side = model.config.data.scenes.image_size
    images = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    return UnderstandingInput(images, torch.randint(4, VOCAB, (count, num_text), generator=generator))


def run(
    model: RFModel, generation: list[GenerationInput], understanding: list[UnderstandingInput]
) -> tuple[list[GenerationOutput], list[Tensor]]:
    """The outputs of generation, and the text logits [B, T, V] of understanding."""
    output = model(generation, understanding)
    return output.generation, [model.text_logits(hidden) for hidden in output.understanding]


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Over all elements; shapes must agree, so that nothing is broadcast."""
    assert first.shape == second.shape
    return float((first.detach().double() - second.detach().double()).abs().max())
