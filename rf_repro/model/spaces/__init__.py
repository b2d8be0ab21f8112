"""What generation tokens hold: one file a space, its name in configs (`model.pixel.space`). A variant swaps one for another and
nothing else (paper Sec. 4.4). Modules here import no torch before they build something."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from rf_repro.config.model_schema import ModelConfig
from rf_repro.config.registry import SPACES
from rf_repro.config.schema import ExperimentConfig

if TYPE_CHECKING:
    import torch

    from rf_repro.model.space import ImageSpace
    from rf_repro.model.vae import KLAutoencoder


class GenerationSpace(ABC):
    """A space. P tokens of an image, C numbers each."""

    generates = True  # whether there is a generation pathway at all

    def check(self, config: ExperimentConfig) -> None:  # noqa: B027 (a hook)
        """Raises UserError where the config does not suit the space."""

    def is_trained_first(self, config: ModelConfig) -> bool:
        """Whether its VAE is trained in-suite, before the variants that use it."""
        return False

    @abstractmethod
    def token_dim(self, config: ModelConfig) -> int:
        """C."""

    @abstractmethod
    def build(self, config: ModelConfig, device: "torch.device", load_vae: "Callable[[], KLAutoencoder]") -> "ImageSpace":
        """The way into the space and out of it; `load_vae`: the VAE that was trained first, on the device."""

    def stored(self, config: ModelConfig) -> dict[str, int]:
        """Numbers kept beside the model, by name."""
        return {}

    def encode_flops(self, config: ModelConfig, image_size: int) -> int:
        """FLOPs of one square image's way in, beyond cutting it into patches."""
        return 0

    def widest(self, config: ModelConfig) -> float:
        """Numbers a pixel in the widest map on an image's way in; 0: there is none."""
        return 0


def space_of(config: ModelConfig) -> GenerationSpace:
    """The space that a config names. Raises UserError where there is none of that name."""
    return cast(GenerationSpace, SPACES.get(config.pixel.space))
