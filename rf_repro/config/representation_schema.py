"""What is predicted before pixels, or instead: the part of the schema (`rf_repro.config.schema`) behind the paper's method."""

from dataclasses import dataclass, fields
from typing import Literal

from rf_repro.config.fields import later_field, require


@dataclass(frozen=True)
class ContinuousConfig:
    """Continuous representation tokens: a diffusion head at each position (after MAR, arXiv 2406.11838; sizes assumed)."""

    width: int = 256  # of the head's residual MLP
    num_layers: int = 3  # residual blocks; MAR has 3 to 12
    draws: int = 4  # noise draws a position in training, as MAR
    steps: int = 25  # Euler steps a position in sampling

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            require(value >= 1, f"representation.continuous.{item.name}", value, ">= 1")


@dataclass(frozen=True)
class AlignmentConfig:
    """REPA (arXiv 2410.06940): pixel tokens of a middle layer are aligned with the encoder's features.

    Assumed: the layer is the middle one at `tiny` (REPA takes a quarter to a third of far deeper models), weight 0.5 and a
    projector of three linear layers are REPA's, its inner width is about twice the model's, as there.
    """

    layer: int = 2  # hidden states after so many blocks
    weight: float = 0.5
    width: int = 256  # inner width of the projector

    def __post_init__(self) -> None:
        require(self.layer >= 1, "representation.alignment.layer", self.layer, ">= 1")
        require(self.weight >= 0, "representation.alignment.weight", self.weight, ">= 0")
        require(self.width >= 1, "representation.alignment.width", self.width, ">= 1")


@dataclass(frozen=True)
class RepresentationConfig:
    """How generation uses the encoder's features: not at all, as tokens predicted before pixels, or by alignment.

    `discrete`: representation tokens by online vector quantisation (Sec. 3.1, Algorithm 1), which is RF. `continuous`: the
    features themselves at the same positions (Table 3c). `repa`: no tokens, an auxiliary loss (Table 3b).
    """

    kind: str = "none"  # of the registry REPRESENTATIONS
    codebook_size: int = 16_384
    momentum: float = 0.9999
    temperature: float = 0.5
    balance: Literal["sinkhorn", "algorithm1"] = "sinkhorn"
    sinkhorn_iterations: int = 1
    center: bool = False  # assumed: subtract an EMA mean of the features before normalising; helps at `tiny`
    warmup_batches: int = 0  # assumed: codebook-only batches before the first step
    warmup_momentum: float = 0.7
    continuous: ContinuousConfig = later_field(ContinuousConfig())
    alignment: AlignmentConfig = later_field(AlignmentConfig())

    def __post_init__(self) -> None:
        name = "representation."
        require(self.codebook_size >= 2, name + "codebook_size", self.codebook_size, ">= 2 (table3d uses 16384, 32768)")
        for key in ("momentum", "warmup_momentum"):
            require(0 <= getattr(self, key) < 1, name + key, getattr(self, key), "in [0, 1)")
        require(self.temperature > 0, name + "temperature", self.temperature, "> 0")
        require(self.sinkhorn_iterations >= 1, name + "sinkhorn_iterations", self.sinkhorn_iterations, ">= 1")
        require(self.warmup_batches >= 0, name + "warmup_batches", self.warmup_batches, ">= 0")
