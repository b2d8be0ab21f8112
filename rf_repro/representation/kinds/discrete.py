"""Representation forcing (paper Sec. 3): codes of the encoder's features are predicted before pixels."""

from typing import TYPE_CHECKING

from rf_repro.config.schema import ExperimentConfig
from rf_repro.representation.kinds import Cost, RepresentationKind

if TYPE_CHECKING:
    from rf_repro.representation.targets import Targets
    from rf_repro.representation.tokens import RepresentationTokens


class Discrete(RepresentationKind):
    """Codes by online vector quantisation (Sec. 3.1), next-token prediction (Sec. 3.2)."""

    has_tokens = True

    def tokens(self, config: ExperimentConfig, grid: int, extent: float) -> "RepresentationTokens":
        from rf_repro.representation.discrete import DiscreteTokens

        decoder = config.model.decoder
        return DiscreteTokens(decoder.width, config.representation.codebook_size, grid, extent, decoder.norm_eps)

    def targets(self, config: ExperimentConfig) -> "Targets":
        from rf_repro.representation.discrete import CodebookTargets

        return CodebookTargets(config.representation, config.model.encoder.width)

    def cost(self, config: ExperimentConfig, number_bytes: int) -> Cost:
        codes = config.representation.codebook_size
        return Cost(codes=codes, stored={"codebook": codes * config.model.encoder.width})


KIND = Discrete()
