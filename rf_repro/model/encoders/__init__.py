"""Understanding encoders: one file a kind, its name in configs (`model.encoder.kind`). Modules here import no torch before they
build something."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.config.registry import ENCODERS
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rf_repro.model.encoder import Encoder


@dataclass(frozen=True)
class EncoderSize:
    """Parameters in all, of matrices (2 FLOPs each and token), and of extra tokens beside an image's patches."""

    total: int
    matmul: int
    prefix_tokens: int


class EncoderKind(ABC):
    """A kind of encoder.

    Attributes:
        is_pretrained: its weights come from elsewhere, and it is counted in closed form: nothing is downloaded or imported.
        takes_any_size: whether the images of a pack may be of several sizes.
        for_masked_images: its parameters that only masked-image modelling uses.
    """

    is_pretrained = True
    takes_any_size = True
    for_masked_images: tuple[str, ...] = ()

    def check(self, config: ExperimentConfig) -> None:  # noqa: B027 (a hook)
        """Raises UserError where the config does not suit the kind."""

    @abstractmethod
    def build(self, config: EncoderConfig, image_size: int) -> "Encoder":
        """The encoder with random weights; `image_size`: pixels a side of the largest image."""

    def weights(self, encoder: "Encoder", source: str) -> "Iterator[tuple[str, Tensor]]":
        """Names and values of the pretrained weights at `source`, a folder or hub id. Raises UserError where it has none."""
        raise UserError(f"{source}: is named as pretrained weights, and this kind of encoder reads none; leave it out")

    def size(self, config: EncoderConfig) -> EncoderSize:
        """Of a pretrained kind. Raises UserError of another, whose parameters are counted as it is built."""
        raise UserError(f"model.encoder.kind={config.kind!r}: has no size in closed form; build it and count")

    def stand_in(self, config: EncoderConfig) -> EncoderConfig:
        """A small encoder of the same width, in place of one that is counted in closed form."""
        return config

    def prefix_tokens(self, config: EncoderConfig) -> int:
        """Tokens beside an image's patches."""
        return self.size(config).prefix_tokens

    @abstractmethod
    def kept(self, config: EncoderConfig) -> tuple[int, int]:
        """What a layer keeps of each token for its backward pass: (times its width, times its feed-forward's)."""


def kinds_that(suit: Callable[[EncoderKind], bool]) -> str:
    """Their names, for a message: `dinov3 or siglip2`."""
    return " or ".join(name for name in ENCODERS.names() if suit(cast(EncoderKind, ENCODERS.get(name))))


def encoder_of(config: EncoderConfig) -> EncoderKind:
    """The kind that a config names. Raises UserError where there is none of that name."""
    return cast(EncoderKind, ENCODERS.get(config.kind))
