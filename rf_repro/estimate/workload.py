"""What one forward pass of a stage computes on one rank: samples, their tokens, the pairs that attend.

Assumed of real data: images are square, the largest that their longer side allows, with sides drawn uniformly from the stage's
range in steps of `image_stride`; texts are as long as the config allows; packs are full. Shorter texts and flatter images leave
room for more samples: tokens, which most of the cost follows, stay, and the encoder sees more images. `extreme_packs` are the
packs that memory must suffice for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rf_repro.config.schema import ExperimentConfig, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.estimate.encoders import pretrained_encoder
from rf_repro.model.layout import SampleLayout, Span, SpanKind

GENERATION, MASKED_IMAGE = "generation", "masked_image"
SHORTEST_TEXT = 4  # tokens, of the shortest sample that a pack may be full of


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


def make_workload(config: ExperimentConfig, stage: StageConfig, ranks: int) -> Workload:
    """The mean pass of each of `ranks` ranks.

    Raises:
        UserError: a step that so many ranks cannot share, or a sample that no pack can hold.
    """
    shares = {kind: count for kind, count in vars(stage.mixture).items() if count}
    where = f"stages.{stage.name}."
    shapes: dict[str, tuple[SampleShape, ...]]
    if config.data.world == "scenes":
        if ranks > max(shares.values()):
            raise UserError(f"{where}mixture: {max(shares.values())} samples of a kind at most for {ranks} GPUs; use fewer GPUs")
        size = config.data.scenes.image_size
        shapes = {kind: (_shape(config, kind, size),) for kind in shares}
        return Workload({kind: count / ranks for kind, count in shares.items()}, shapes, ranks)
    if stage.packs_per_step % ranks:
        raise UserError(
            f"{where}packs_per_step={stage.packs_per_step}: must be a multiple of --gpus {ranks}; "
            f"set {where}packs_per_step={ranks * -(-stage.packs_per_step // ranks)}"
        )
    shapes = {kind: tuple(_shape(config, kind, size) for size in _sizes(config, stage)) for kind in shares}
    for kind, (*_, largest) in shapes.items():
        if largest.layout.length > stage.tokens_per_rank:
            raise UserError(
                f"{where}tokens_per_rank={stage.tokens_per_rank}: must be at least {largest.layout.length}, the tokens of one "
                f"{kind} sample at {largest.image_size} pixels; raise it or lower {where}max_image_size"
            )
    work = Workload({kind: float(count) for kind, count in shares.items()}, shapes, ranks, stage.packs_per_step // ranks)
    return _filled(work, stage.tokens_per_rank)


def extreme_packs(config: ExperimentConfig, stage: StageConfig, ranks: int) -> dict[str, Workload]:
    """What makes a pack extreme -> the pack: of one kind of sample, of the smallest or largest images, of short or long texts.
    Of scenes there is only the step's batch."""
    work = make_workload(config, stage, ranks)
    if config.data.world == "scenes":
        return {"the batch": work}
    packs = {}
    for kind in work.shapes:
        sizes = (0,) if kind == "text" else dict.fromkeys((_sizes(config, stage)[0], stage.max_image_size))
        for size in sizes:
            for text in (None,) if kind == "text" else (SHORTEST_TEXT, None):
                name = f"{kind}{f', {size} px' if size else ''}{', shortest texts' if text else ', longest texts'}"
                alone = replace(work, samples={kind: 1.0}, shapes={kind: (_shape(config, kind, size, text),)})
                packs[name] = _filled(alone, stage.tokens_per_rank)
    return packs


def _filled(work: Workload, tokens: int) -> Workload:
    scale = tokens / work.num_tokens
    return replace(work, samples={kind: count * scale for kind, count in work.samples.items()})


def _sizes(config: ExperimentConfig, stage: StageConfig) -> range:
    """Pixels of an image's longer side."""
    return range(stage.min_image_size or stage.max_image_size, stage.max_image_size + 1, config.image_stride)


def _shape(config: ExperimentConfig, kind: str, size: int, num_text: int | None = None) -> SampleShape:
    """A sample of a kind with an image of `size` pixels a side; `num_text`: tokens of its text, None: as many as may be."""
    model, representation = config.model, config.representation.kind
    prefix = 0 if model.encoder.kind == "vit" else pretrained_encoder(model.encoder).prefix_tokens
    grid = size // model.encoder.patch_size
    encoded, features = grid**2 + prefix, (grid // 2) ** 2
    if kind == MASKED_IMAGE:
        return SampleShape(SampleLayout(()), encoded=encoded, image_size=size)
    longest = config.data.caption_tokens if kind == GENERATION else config.data.answer_tokens
    text = Span("text", longest if num_text is None else num_text)
    if kind == GENERATION:
        spans = [text]
        if representation in ("discrete", "continuous"):
            spans.append(Span("representation", 1 + features, (grid // 2, grid // 2)))
        pixels = size // model.pixel.patch_size
        spans.append(Span("pixel", pixels**2, (pixels, pixels)))
        return SampleShape(
            SampleLayout(tuple(spans)),
            targets=encoded if representation != "none" else 0,
            features=features if representation == "discrete" else 0,
            predictions=text.length - 1 if config.objective.caption_loss else 0,
            image_size=size,
        )
    if kind == "text":
        return SampleShape(SampleLayout((text,)), predictions=text.length - 1)
    image = Span("image", features, (grid // 2, grid // 2))
    return SampleShape(SampleLayout((image, text)), encoded=encoded, predictions=text.length - 1, image_size=size)
