"""FLOPs of one optimiser step on one rank, a multiply-add as two, forward and in training.

Only matrix products and convolutions count, as MFU is defined: no norms, softmaxes, activations, rotary positions, optimiser;
nor what activation checkpointing computes again. Published utilisations are of the same count.
"""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from rf_repro.config.schema import ExperimentConfig, StageConfig
from rf_repro.estimate.encoders import wan_encode_flops
from rf_repro.estimate.parameters import Parameters, meta_masked_head, meta_vae
from rf_repro.estimate.workload import GENERATION, MASKED_IMAGE, Workload
from rf_repro.model.layout import POOL_OF


@dataclass(frozen=True)
class Cost:
    """FLOPs of a step: of the forward pass, and of forward and backward."""

    forward: int
    training: int


def step_flops(config: ExperimentConfig, stage: StageConfig, parameters: Parameters, work: Workload) -> dict[str, Cost]:
    """Part or activity -> its cost on one rank, over all passes of the step.

    The backward pass costs one forward pass for the gradient of a matrix product's input, where something below it is
    trained, and one for that of its weights, where they are.
    """
    decoder, encoder, representation = config.model.decoder, config.model.encoder, config.representation
    parts, all_trained = parameters.parts, stage.trains == "all"
    costs: dict[str, Cost] = {}

    def add(name: str, forward: float, inputs: bool = True, weights: bool = all_trained) -> None:
        if forward:
            costs[name] = Cost(round(work.passes * forward), round(work.passes * forward * (1 + inputs + weights)))

    def linear(name: str, tokens: float, inputs: bool = True, weights: bool = all_trained) -> None:
        if name in parts:
            add(name, 2 * parts[name].matmul * tokens, inputs, weights)

    def images(tokens: str) -> float:
        """The encoder over the images that have such tokens: matrices, scores and weighted values."""
        matrices = 2 * parts["encoder"].matmul * work.total(lambda shape: getattr(shape, tokens))
        scores = 4 * encoder.width * encoder.num_layers * work.total(lambda shape: getattr(shape, tokens) ** 2)
        return matrices + scores

    samples = work.samples.get(GENERATION, 0)
    tokens = sum(work.tokens(kind) for kind in POOL_OF)
    add("encoder", images("encoded"), inputs=all_trained)
    linear("connector", work.tokens("image"), weights=True)
    linear("attention", tokens)
    pairs = work.total(lambda shape: shape.pairs)
    add("attention_scores", 4 * decoder.num_heads * decoder.head_dim * decoder.num_layers * pairs, weights=True)
    for pool in dict.fromkeys(POOL_OF.values()):
        linear(f"pool_{pool}", sum(work.tokens(kind) for kind, own in POOL_OF.items() if own == pool))
    linear("text_head", work.total(lambda shape: shape.predictions))
    if samples:
        linear("pixel_in", work.tokens("pixel"), inputs=False)
        linear("time_embedding", samples)
        linear("time_modulation", samples)
        linear("pixel_head", work.tokens("pixel"))
        linear("alignment_projector", work.tokens("pixel"))
        predicted = work.tokens("representation") - samples  # the start token is not predicted
        linear("representation_in", predicted, inputs=False)
        linear("representation_head", predicted * (representation.continuous.draws if representation.kind == "continuous" else 1))
        frozen = {"inputs": False, "weights": False}
        add("target_encoder", images("targets"), **frozen)
        features = work.total(lambda shape: shape.features)
        add("vq_assignment", 2 * representation.codebook_size * encoder.width * features, **frozen)
        if config.model.pixel.space == "vae":
            images_of = work.shapes[GENERATION]
            mean = sum(vae_encode_flops(config, shape.image_size) for shape in images_of) / len(images_of)
            add("vae_encode", samples * mean, **frozen)
    if MASKED_IMAGE in work.samples:
        count, (shape,) = work.samples[MASKED_IMAGE], work.shapes[MASKED_IMAGE]
        matrices = sum(p.numel() for p in meta_masked_head(config).parameters() if p.ndim > 1)
        add("masked_image_head", count * (2 * matrices * shape.encoded + 4 * encoder.width * shape.encoded**2))
    return costs


def vae_encode_flops(config: ExperimentConfig, image_size: int) -> int:
    """FLOPs of the frozen VAE's encoding of one image: of the in-suite one as counted by PyTorch, without computing it."""
    if config.model.vae.kind == "wan":
        return wan_encode_flops(image_size)
    with FlopCounterMode(display=False) as counter:
        meta_vae(config).posterior(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops()
