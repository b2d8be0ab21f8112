"""FLOPs of one optimiser step on one rank, a multiply-add as two, forward and in training.

Only matrix products and convolutions count, as MFU is defined: no norms, softmaxes, activations, rotary positions, optimiser;
nor what activation checkpointing computes again. Published utilisations are of the same count.
"""

from dataclasses import dataclass

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.estimate.parameters import Parameters, meta_masked_head
from rf_repro.model.layout import POOL_OF
from rf_repro.model.spaces import space_of
from rf_repro.model.workload import GENERATION, MASKED_IMAGE, Workload
from rf_repro.representation.kinds import representation_of


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
    decoder, encoder, space = config.model.decoder, config.model.encoder, space_of(config.model)
    representation = representation_of(config).cost(config, 0)
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
        linear("representation_head", predicted * representation.head_passes)
        frozen = {"inputs": False, "weights": False}
        add("target_encoder", images("targets"), **frozen)
        features = work.total(lambda shape: shape.features)
        add("vq_assignment", 2 * representation.codes * encoder.width * features, **frozen)
        images_of = work.shapes[GENERATION]
        mean = sum(space.encode_flops(config.model, shape.image_size) for shape in images_of) / len(images_of)
        add("vae_encode", samples * mean, **frozen)
    if MASKED_IMAGE in work.samples:
        count, (shape,) = work.samples[MASKED_IMAGE], work.shapes[MASKED_IMAGE]
        matrices = sum(p.numel() for p in meta_masked_head(config).parameters() if p.ndim > 1)
        add("masked_image_head", count * (2 * matrices * shape.encoded + 4 * encoder.width * shape.encoded**2))
    return costs
