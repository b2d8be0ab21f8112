"""No generation: the VLM-only baseline (paper Secs. 4.3, 4.4)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rf_repro.config.fields import require
from rf_repro.config.model_schema import ModelConfig
from rf_repro.config.schema import ExperimentConfig
from rf_repro.model.spaces import GenerationSpace
from rf_repro.representation.kinds import representation_of

if TYPE_CHECKING:
    import torch

    from rf_repro.model.space import ImageSpace
    from rf_repro.model.vae import KLAutoencoder


class NoSpace(GenerationSpace):
    """Images are only understood."""

    generates = False

    def check(self, config: ExperimentConfig) -> None:
        require(not representation_of(config).needs_generation, "representation.kind", config.representation.kind,
                "none where model.pixel.space=none: nothing is generated")  # fmt: skip
        for stage in config.stages:
            require(stage.mixture.generation == 0 or stage.shared, f"stages.{stage.name}.mixture.generation",
                    stage.mixture.generation, "0 where model.pixel.space=none: nothing is generated")  # fmt: skip

    def token_dim(self, config: ModelConfig) -> int:
        """0: there are no generation tokens."""
        return 0

    def build(self, config: ModelConfig, device: "torch.device", load_vae: "Callable[[], KLAutoencoder]") -> "ImageSpace":
        """Pixels, which nobody asks for."""
        from rf_repro.model.space import PixelSpace

        return PixelSpace(config.pixel.patch_size)


KIND = NoSpace()
