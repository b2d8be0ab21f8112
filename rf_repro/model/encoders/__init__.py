"""Understanding encoders: one file a kind, its name in configs (`model.encoder.kind`). Modules here import no torch before they
build something."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.config.registry import ENCODERS
from rf_repro.config.schema import ExperimentConfig

if TYPE_CHECKING:
    from torch import Tensor

    from rf_repro.model.encoder import Encoder


@dataclass(frozen=True)
class EncoderSize:
    """Parameters in all, of matrices (2 FLOPs each and token), and of extra tokens beside an image's patches."""

    total: int
    matmul: int
    prefix_tokens: int


class EncoderKind:
    """A kind of encoder.

    Attributes:
        is_pretrained: its weights come from elsewhere, and it is counted in closed form: nothing is downloaded or imported.
    """

    is_pretrained = True

    def check(self, config: ExperimentConfig) -> None:
        """Raises UserError where the config does not suit the kind."""

    def build(self, config: EncoderConfig, image_size: int) -> "Encoder":
        """The encoder with random weights; `image_size`: pixels a side of the largest image."""
        raise NotImplementedError

    def weights(self, encoder: "Encoder", source: str) -> "Iterator[tuple[str, Tensor]]":
        """Names and values of the pretrained weights at `source`, a folder or hub id."""
        raise NotImplementedError

    def size(self, config: EncoderConfig) -> EncoderSize:
        """Of a pretrained kind."""
        raise NotImplementedError

    def prefix_tokens(self, config: EncoderConfig) -> int:
        """Tokens beside an image's patches."""
        return self.size(config).prefix_tokens

    def kept(self, config: EncoderConfig) -> tuple[int, int]:
        """What a layer keeps of each token for its backward pass: (times its width, times its feed-forward's)."""
        raise NotImplementedError


def encoder_of(config: EncoderConfig) -> EncoderKind:
    """The kind that a config names. Raises UserError where there is none of that name."""
    return cast(EncoderKind, ENCODERS.get(config.kind))
