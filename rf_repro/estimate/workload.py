"""What one step of a stage computes on one rank: samples, their tokens, the pairs that attend.

Assumed, where data is packed by length: every image is as large as the stage allows and every text as long as the config
allows, and packs are full. Images smaller than that attend over less and leave more room for text; the number of tokens, which
most of the cost follows, stays.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rf_repro.config.schema import ExperimentConfig, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.estimate.encoders import pretrained_encoder
from rf_repro.model.layout import SampleLayout, Span, SpanKind

GENERATION, MASKED_IMAGE = "generation", "masked_image"


@dataclass(frozen=True)
class SampleShape:
    """One sample of a kind.

    Attributes:
        layout: its spans in the decoder; none where only the encoder sees it.
        encoded: tokens in the encoder that is trained.
        targets: tokens in the EMA encoder, forward only.
        features: encoder features that are assigned to codes.
        image_size: pixels a side of its image; 0: none.
    """

    layout: SampleLayout
    encoded: int = 0
    targets: int = 0
    features: int = 0
    image_size: int = 0

    def tokens(self, kind: SpanKind) -> int:
        return sum(span.length for span in self.layout.spans if span.kind == kind)

    @property
    def pairs(self) -> int:
        """(query, key) pairs that attend, in one head. Paper: Sec. 3.2."""
        pairs = 0
        for (start, stop), span in zip(self.layout.bounds, self.layout.spans, strict=True):
            pairs += span.length * start + span.length * (span.length + 1) // 2 if span.is_causal else span.length * stop
        return pairs


@dataclass(frozen=True)
class Workload:
    """Mean numbers of samples of a rank's step by kind, and their shapes; the step has `ranks` times as many.

    `assigning` is the number of ranks whose features each rank assigns to codes: of scenes all (`Trainer.assign_targets`), of
    real data its own, where ranks need to share no more than the mass of each code.
    """

    samples: dict[str, float]
    shapes: dict[str, SampleShape]
    ranks: int
    assigning: int

    def total(self, quantity: Callable[[SampleShape], float]) -> float:
        """Sum of a quantity over the rank's samples."""
        return sum(count * quantity(self.shapes[kind]) for kind, count in self.samples.items())

    def tokens(self, kind: SpanKind) -> float:
        """Of one kind, in the decoder."""
        return self.total(lambda shape: shape.tokens(kind))

    @property
    def assigned_features(self) -> float:
        """Rows that this rank scores against the codebook."""
        return self.assigning * self.total(lambda shape: shape.features)

    @property
    def num_tokens(self) -> float:
        """Of the rank's packed sequence; masked images, which the decoder does not see, count their patches, as in training."""
        return self.total(lambda shape: shape.layout.length or shape.encoded)


def make_workload(config: ExperimentConfig, stage: StageConfig, ranks: int) -> Workload:
    """The workload of each of `ranks` ranks.

    Raises:
        UserError: more ranks than samples, or a sample that no pack can hold.
    """
    shares = {kind: count for kind, count in vars(stage.mixture).items() if count}
    shapes = {kind: _shape(config, stage, kind) for kind in shares}
    assigning = ranks if config.data.world == "scenes" else 1
    where = f"stages.{stage.name}."
    if not stage.tokens_per_rank:
        if ranks > max(shares.values()):
            raise UserError(f"{where}mixture: {max(shares.values())} samples of a kind at most for {ranks} GPUs; use fewer GPUs")
        return Workload({kind: count / ranks for kind, count in shares.items()}, shapes, ranks, assigning)
    for kind, shape in shapes.items():
        if shape.layout.length > stage.tokens_per_rank:
            raise UserError(
                f"{where}tokens_per_rank={stage.tokens_per_rank}: must be at least {shape.layout.length}, the tokens of one "
                f"{kind} sample at {shape.image_size} pixels; raise it or lower {where}max_image_size"
            )
    packs = stage.tokens_per_rank / sum(count * shapes[kind].layout.length for kind, count in shares.items())
    return Workload({kind: count * packs for kind, count in shares.items()}, shapes, ranks, assigning)


def _shape(config: ExperimentConfig, stage: StageConfig, kind: str) -> SampleShape:
    model, representation = config.model, config.representation.kind
    size = config.data.scenes.image_size if config.data.world == "scenes" else stage.max_image_size
    prefix = 0 if config.data.world == "scenes" else pretrained_encoder(model.encoder).prefix_tokens
    grid = size // model.encoder.patch_size
    encoded, features = grid**2 + prefix, (grid // 2) ** 2
    if kind == MASKED_IMAGE:
        return SampleShape(SampleLayout(()), encoded=encoded, image_size=size)
    if kind == GENERATION:
        spans = [Span("text", config.data.caption_tokens)]
        if representation in ("discrete", "continuous"):
            spans.append(Span("representation", 1 + features, grid // 2))
        pixels = size // model.pixel.patch_size
        spans.append(Span("pixel", pixels**2, pixels))
        targets = encoded if representation != "none" else 0
        codes = features if representation == "discrete" else 0
        return SampleShape(SampleLayout(tuple(spans)), targets=targets, features=codes, image_size=size)
    text = Span("text", config.data.answer_tokens)
    if kind == "text":
        return SampleShape(SampleLayout((text,)))
    return SampleShape(SampleLayout((Span("image", features, grid // 2), text)), encoded=encoded, image_size=size)
