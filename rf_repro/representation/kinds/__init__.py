"""What generation does with the encoder's features: one file a kind, its name in configs (`representation.kind`).

A kind is what the rest of the suite asks: the trainer for its tokens and targets, the config for its checks, the estimate for its
cost. Nothing else knows which kinds there are. Modules here import no torch before they build something.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from rf_repro.config.registry import REPRESENTATIONS
from rf_repro.config.schema import ExperimentConfig

if TYPE_CHECKING:
    from rf_repro.representation.alignment import Projector
    from rf_repro.representation.targets import Targets
    from rf_repro.representation.tokens import RepresentationTokens


@dataclass(frozen=True)
class Cost:
    """What a kind adds to the cost of training.

    Attributes:
        has_targets: an EMA copy of the encoder sees every image to be generated.
        codes: codes that each feature is compared with, which are the logits of a token too; 0: none.
        head_passes: of each token through its head.
        stored: numbers kept beside the model, by name.
        token_bytes, pixel_bytes: what heads keep for the backward pass, of each representation token or pixel token.
    """

    has_targets: bool = True
    codes: int = 0
    head_passes: int = 1
    stored: dict[str, int] = field(default_factory=dict)
    token_bytes: float = 0.0
    pixel_bytes: float = 0.0


class RepresentationKind:
    """A kind; what it does not define, it does without."""

    needs_generation = True  # whether there must be images to generate
    has_tokens = False  # whether tokens of its own are predicted before pixels
    is_aligned = False  # whether pixel tokens of a middle layer are drawn towards targets

    def check(self, config: ExperimentConfig) -> None:
        """Raises UserError where the config does not suit the kind."""

    def tokens(self, config: ExperimentConfig, grid: int, extent: float) -> "RepresentationTokens | None":
        """Its tokens' ways in and out of the decoder.

        Args:
            grid: pooled features a side of the largest image.
            extent: generation tokens a side, on whose scale positions are given.
        """
        return None

    def alignment(self, config: ExperimentConfig) -> "Projector | None":
        """What projects a middle layer's pixel tokens, where those are aligned with features."""
        return None

    def targets(self, config: ExperimentConfig) -> "Targets | None":
        """What becomes of the encoder's features before each step."""
        return None

    def cost(self, config: ExperimentConfig, number_bytes: int) -> Cost:
        """What it adds to a step; `number_bytes`: of an activation."""
        return Cost()


def representation_of(config: ExperimentConfig) -> RepresentationKind:
    """The kind that a config names. Raises UserError where there is none of that name."""
    return cast(RepresentationKind, REPRESENTATIONS.get(config.representation.kind))
