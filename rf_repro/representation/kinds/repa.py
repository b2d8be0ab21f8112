"""REPA (paper Table 3b, after arXiv 2410.06940): no tokens; pixel tokens of a middle layer are aligned with the features."""

from typing import TYPE_CHECKING

from rf_repro.config.fields import require
from rf_repro.config.schema import ExperimentConfig
from rf_repro.representation.kinds import Cost, RepresentationKind

if TYPE_CHECKING:
    from rf_repro.representation.alignment import Projector
    from rf_repro.representation.targets import Targets


class Alignment(RepresentationKind):
    """An auxiliary loss on pixel tokens."""

    is_aligned = True

    def check(self, config: ExperimentConfig) -> None:
        layer, layers = config.representation.alignment.layer, config.model.decoder.num_layers
        require(layer <= layers, "representation.alignment.layer", layer, f"at most num_layers={layers}")

    def alignment(self, config: ExperimentConfig) -> "Projector":
        from rf_repro.representation.alignment import Projector

        alignment = config.representation.alignment
        return Projector(config.model.decoder.width, alignment.width, config.model.encoder.width, alignment.layer)

    def targets(self, config: ExperimentConfig) -> "Targets":
        from rf_repro.representation.alignment import AlignmentTargets

        return AlignmentTargets(config.model.encoder.width, config.representation.center)

    def cost(self, config: ExperimentConfig, number_bytes: int) -> Cost:
        row = number_bytes * (4 * config.representation.alignment.width + config.model.decoder.width)
        return Cost(pixel_bytes=row + 4 * 3 * config.model.encoder.width)


KIND = Alignment()
