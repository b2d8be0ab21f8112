"""Continuous representation tokens (paper Sec. 4.4, Table 3c): the features themselves, drawn by a diffusion head."""

from typing import TYPE_CHECKING

from rf_repro.config.schema import ExperimentConfig
from rf_repro.representation.kinds import Cost, RepresentationKind

if TYPE_CHECKING:
    from rf_repro.representation.targets import Targets
    from rf_repro.representation.tokens import RepresentationTokens


class Continuous(RepresentationKind):
    """Standardised features at the places of the codes."""

    has_tokens = True

    def tokens(self, config: ExperimentConfig, grid: int, extent: float) -> "RepresentationTokens":
        from rf_repro.representation.continuous import ContinuousTokens

        decoder, feature_dim = config.model.decoder, config.model.encoder.width
        return ContinuousTokens(decoder.width, feature_dim, grid, extent, decoder.norm_eps, config.representation.continuous)

    def targets(self, config: ExperimentConfig) -> "Targets":
        from rf_repro.representation.continuous import StandardisedTargets

        return StandardisedTargets(config.model.encoder.width)

    def cost(self, config: ExperimentConfig, number_bytes: int) -> Cost:
        head, b = config.representation.continuous, number_bytes
        block = b * 12 * head.width  # normalised, modulation's input and three outputs, scaled, the inner layer, its output
        row = head.num_layers * block + b * config.model.decoder.width + 4 * 6 * config.model.encoder.width
        return Cost(head_passes=head.draws, token_bytes=row * head.draws)


KIND = Continuous()
