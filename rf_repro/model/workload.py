"""What one forward pass of a stage computes on one rank: samples, their tokens, the pairs that attend. Which samples there are,
the world says (`rf_repro.worlds`)."""

from collections.abc import Callable
from dataclasses import dataclass

from rf_repro.config.schema import ExperimentConfig
from rf_repro.model.encoders import encoder_of
from rf_repro.model.layout import SampleLayout, Span, SpanKind
from rf_repro.representation.kinds import representation_of

GENERATION, MASKED_IMAGE = "generation", "masked_image"


@dataclass(frozen=True)
class SampleShape:
    """One sample of a kind.

    Attributes:
        layout: its spans in the decoder; none where only the encoder sees it.
        encoded: tokens in the encoder that is trained.
        targets: tokens in the EMA encoder, forward only.
        features: encoder features that are assigned to codes.
        predictions: text tokens that are learned, at most: padding and questions are not.
        image_size: pixels a side of its image; 0: none.
    """

    layout: SampleLayout
    encoded: int = 0
    targets: int = 0
    features: int = 0
    predictions: int = 0
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
    """Samples by kind of a rank's pass, a mean, with the equally frequent shapes of each kind. `ranks` ranks do `passes` such
    passes, forward and backward, between two steps of the optimiser.
    """

    samples: dict[str, float]
    shapes: dict[str, tuple[SampleShape, ...]]
    ranks: int
    passes: int = 1

    def total(self, quantity: Callable[[SampleShape], float]) -> float:
        """Sum of a quantity over the pass's samples."""
        means = {kind: sum(map(quantity, shapes)) / len(shapes) for kind, shapes in self.shapes.items()}
        return sum(count * means[kind] for kind, count in self.samples.items())

    def tokens(self, kind: SpanKind) -> float:
        """Of one kind, in the decoder."""
        return self.total(lambda shape: shape.tokens(kind))

    @property
    def num_tokens(self) -> float:
        """Of the pass's packed sequence; masked images, which the decoder does not see, count their patches, as in training."""
        return self.total(lambda shape: shape.layout.length or shape.encoded)

    @property
    def step_tokens(self) -> float:
        """Of all passes of all ranks."""
        return self.num_tokens * self.passes * self.ranks


def sample_shape(config: ExperimentConfig, kind: str, size: int, num_text: int | None = None) -> SampleShape:
    """A sample of a kind with an image of `size` pixels a side; `num_text`: tokens of its text, None: as many as may be."""
    model, kind_of_tokens = config.model, representation_of(config)
    cost, prefix = kind_of_tokens.cost(config, 0), encoder_of(model.encoder).prefix_tokens(model.encoder)
    grid = size // model.encoder.patch_size
    encoded, features = grid**2 + prefix, (grid // 2) ** 2
    if kind == MASKED_IMAGE:
        return SampleShape(SampleLayout(()), encoded=encoded, image_size=size)
    longest = config.data.caption_tokens if kind == GENERATION else config.data.answer_tokens
    text = Span("text", longest if num_text is None else num_text)
    if kind == GENERATION:
        spans = [text]
        if kind_of_tokens.has_tokens:
            spans.append(Span("representation", 1 + features, (grid // 2, grid // 2)))
        pixels = size // model.pixel.patch_size
        spans.append(Span("pixel", pixels**2, (pixels, pixels)))
        return SampleShape(
            SampleLayout(tuple(spans)),
            targets=encoded if cost.has_targets else 0,
            features=features if cost.codes else 0,
            predictions=text.length - 1 if config.objective.caption_loss else 0,
            image_size=size,
        )
    if kind == "text":
        return SampleShape(SampleLayout((text,)), predictions=text.length - 1)
    image = Span("image", features, (grid // 2, grid // 2))
    return SampleShape(SampleLayout((image, text)), encoded=encoded, predictions=text.length - 1, image_size=size)
