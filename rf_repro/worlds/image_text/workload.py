"""What the packs of image-text data cost.

Assumed: images are square, the largest that their longer side allows, with sides drawn uniformly from the stage's range in steps
of `image_stride`; texts are as long as the config allows; both parts of a pack are full. Shorter texts and flatter images leave
room for more samples: tokens, which most of the cost follows, stay, and the encoder sees more images.
"""

from dataclasses import replace
from itertools import product

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import PARTS, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.model.workload import SampleShape, Workload, sample_shape

SHORTEST_TEXT = 4  # tokens, of the shortest sample that a pack may be full of


def workload(config: ExperimentConfig, stage: StageConfig, ranks: int) -> Workload:
    """The mean pass of each of `ranks` ranks.

    Raises:
        UserError: a step that so many ranks cannot share, or a sample that no pack can hold.
    """
    where = f"stages.{stage.name}."
    if stage.packs_per_step % ranks:
        raise UserError(
            f"{where}packs_per_step={stage.packs_per_step}: must be a multiple of --gpus {ranks}; "
            f"set {where}packs_per_step={ranks * -(-stage.packs_per_step // ranks)}"
        )
    samples: dict[str, float] = {}
    shapes: dict[str, tuple[SampleShape, ...]] = {}
    for part, kinds in PARTS.items():
        shares = {kind: float(getattr(stage.mixture, kind)) for kind in kinds if getattr(stage.mixture, kind)}
        own = {kind: tuple(sample_shape(config, kind, size) for size in _sizes(config, stage)) for kind in shares}
        room = stage.part_tokens(part)
        for kind, (*_, largest) in own.items():
            if largest.layout.length > room:
                raise UserError(
                    f"{where}tokens_per_rank={stage.tokens_per_rank}: leaves {room} to {part} (understanding_share="
                    f"{stage.understanding_share:g}), and must leave {largest.layout.length}, the tokens of one {kind} sample at "
                    f"{largest.image_size} pixels; raise it or lower {where}max_image_size"
                )
        if own:
            samples |= _filled(Workload(shares, own, ranks), room).samples
            shapes |= own
    return Workload(samples, shapes, ranks, stage.packs_per_step // ranks)


def extreme_packs(config: ExperimentConfig, stage: StageConfig, ranks: int) -> dict[str, Workload]:
    """What makes a pack extreme -> the pack: each part of one kind of sample, of the smallest or largest images, of short or long
    texts."""
    work = workload(config, stage, ranks)
    parts: list[dict[str, Workload]] = []
    for part, kinds in PARTS.items():
        found = {}
        for kind in (kind for kind in kinds if kind in work.shapes):
            sizes = (0,) if kind == "text" else dict.fromkeys((_sizes(config, stage)[0], stage.max_image_size))
            for size in sizes:
                for text in (None,) if kind == "text" else (SHORTEST_TEXT, None):
                    name = f"{kind}{f', {size} px' if size else ''}{', shortest texts' if text else ', longest texts'}"
                    alone = replace(work, samples={kind: 1.0}, shapes={kind: (sample_shape(config, kind, size, text),)})
                    found[name] = _filled(alone, stage.part_tokens(part))
        if found:
            parts.append(found)
    return {
        "; ".join(name for name, _ in chosen): replace(
            work,
            samples={kind: count for _, one in chosen for kind, count in one.samples.items()},
            shapes={kind: shapes for _, one in chosen for kind, shapes in one.shapes.items()},
        )
        for chosen in product(*(part.items() for part in parts))
    }


def _filled(work: Workload, tokens: int) -> Workload:
    scale = tokens / work.num_tokens
    return replace(work, samples={kind: count * scale for kind, count in work.samples.items()})


def _sizes(config: ExperimentConfig, stage: StageConfig) -> range:
    """Pixels of an image's longer side."""
    return range(stage.min_image_size or stage.max_image_size, stage.max_image_size + 1, config.image_stride)
