"""What the packs of image-text data cost.

Assumed: images are square, the largest that their longer side allows, with sides drawn uniformly from the stage's range in steps
of `image_stride`; texts are as long as the config allows; packs are full. Shorter texts and flatter images leave room for more
samples: tokens, which most of the cost follows, stay, and the encoder sees more images.
"""

from dataclasses import replace

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.model.workload import SampleShape, Workload, sample_shape

SHORTEST_TEXT = 4  # tokens, of the shortest sample that a pack may be full of


def workload(config: ExperimentConfig, stage: StageConfig, ranks: int) -> Workload:
    """The mean pass of each of `ranks` ranks.

    Raises:
        UserError: a step that so many ranks cannot share, or a sample that no pack can hold.
    """
    shares = {kind: count for kind, count in vars(stage.mixture).items() if count}
    where = f"stages.{stage.name}."
    shapes: dict[str, tuple[SampleShape, ...]]
    if stage.packs_per_step % ranks:
        raise UserError(
            f"{where}packs_per_step={stage.packs_per_step}: must be a multiple of --gpus {ranks}; "
            f"set {where}packs_per_step={ranks * -(-stage.packs_per_step // ranks)}"
        )
    shapes = {kind: tuple(sample_shape(config, kind, size) for size in _sizes(config, stage)) for kind in shares}
    for kind, (*_, largest) in shapes.items():
        if largest.layout.length > stage.tokens_per_rank:
            raise UserError(
                f"{where}tokens_per_rank={stage.tokens_per_rank}: must be at least {largest.layout.length}, the tokens of one "
                f"{kind} sample at {largest.image_size} pixels; raise it or lower {where}max_image_size"
            )
    work = Workload({kind: float(count) for kind, count in shares.items()}, shapes, ranks, stage.packs_per_step // ranks)
    return _filled(work, stage.tokens_per_rank)


def extreme_packs(config: ExperimentConfig, stage: StageConfig, ranks: int) -> dict[str, Workload]:
    """What makes a pack extreme -> the pack: of one kind of sample, of the smallest or largest images, of short or long texts."""
    work = workload(config, stage, ranks)
    packs = {}
    for kind in work.shapes:
        sizes = (0,) if kind == "text" else dict.fromkeys((_sizes(config, stage)[0], stage.max_image_size))
        for size in sizes:
            for text in (None,) if kind == "text" else (SHORTEST_TEXT, None):
                name = f"{kind}{f', {size} px' if size else ''}{', shortest texts' if text else ', longest texts'}"
                alone = replace(work, samples={kind: 1.0}, shapes={kind: (sample_shape(config, kind, size, text),)})
                packs[name] = _filled(alone, stage.tokens_per_rank)
    return packs


def _filled(work: Workload, tokens: int) -> Workload:
    scale = tokens / work.num_tokens
    return replace(work, samples={kind: count * scale for kind, count in work.samples.items()})


def _sizes(config: ExperimentConfig, stage: StageConfig) -> range:
    """Pixels of an image's longer side."""
    return range(stage.min_image_size or stage.max_image_size, stage.max_image_size + 1, config.image_stride)
