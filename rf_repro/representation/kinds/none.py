"""No use of the encoder's features: the Pixel and VAE baselines (paper Sec. 4.4)."""

from rf_repro.config.schema import ExperimentConfig
from rf_repro.representation.kinds import Cost, RepresentationKind


class NoRepresentation(RepresentationKind):
    """Text, then pixels."""

    needs_generation = False

    def cost(self, config: ExperimentConfig, number_bytes: int) -> Cost:
        return Cost(has_targets=False)


KIND = NoRepresentation()
