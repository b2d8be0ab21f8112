"""How it is trained: objective, stages, optimiser, sharing of the work (part of the schema, `rf_repro.config.schema`)."""

from dataclasses import asdict, dataclass, fields
from typing import Literal

from rf_repro.config.fields import later_field, require

Part = Literal["understanding", "generation"]  # of a pack that is filled by length
# In the order that they are filled, with the kinds of samples of each. What the first takes, all variants take.
PARTS: dict[Part, tuple[str, ...]] = {"understanding": ("understanding", "text"), "generation": ("generation",)}


@dataclass(frozen=True)
class ObjectiveConfig:
    """L = L_LM + L_FM + L_Rep (Eq. 3), condition dropping, and the flow's time distribution."""

    flow_weight: float = 1.0
    representation_weight: float = 1.0
    router_weight: float = later_field(0.0)  # of the load-balancing loss, where pools are mixtures of experts
    caption_loss: bool = False  # assumed: the captions of generation samples carry no L_LM
    text_drop: float = 0.1
    representation_drop: float = 0.1
    time_mean: float = -0.8  # assumed, after JiT: t = sigmoid(N(mean, std))
    time_std: float = 0.8
    time_stratified: bool = False  # assumed at `tiny`: one t per equal-probability bin of the batch, less variance
    min_one_minus_t: float = 0.05  # assumed, after JiT

    def __post_init__(self) -> None:
        for key in ("flow_weight", "representation_weight", "router_weight"):
            require(getattr(self, key) >= 0, f"objective.{key}", getattr(self, key), ">= 0")
        for key in ("text_drop", "representation_drop"):
            require(0 <= getattr(self, key) < 1, f"objective.{key}", getattr(self, key), "in [0, 1)")
        require(self.time_std > 0, "objective.time_std", self.time_std, "> 0")
        require(0 < self.min_one_minus_t < 1, "objective.min_one_minus_t", self.min_one_minus_t, "in (0, 1)")


@dataclass(frozen=True)
class MixtureConfig:
    """Samples of each kind in one optimiser step at `tiny`.

    Where `tokens_per_rank` packs by length, `understanding` and `text` are relative shares of the samples in their part of a pack
    (`StageConfig.understanding_share`), and `generation` is 1 or 0: whether samples of it fill the rest.
    """

    generation: int = 32  # caption -> image
    understanding: int = 8  # image -> caption
    masked_image: int = 0  # masked-autoencoding of the encoder (first stage at `tiny` only)
    questions: int = later_field(0)  # image and question -> answer
    text: int = later_field(0)  # text alone

    def __post_init__(self) -> None:
        for item in fields(self):
            require(getattr(self, item.name) >= 0, f"stages.*.mixture.{item.name}", getattr(self, item.name), ">= 0")
        require(self.total > 0, "stages.*.mixture", asdict(self), "at least one sample in all")

    @property
    def total(self) -> int:
        return self.generation + self.understanding + self.masked_image + self.questions + self.text


@dataclass(frozen=True)
class StageConfig:
    """One training stage (Table of App. A). A shared stage is trained once and starts every variant."""

    name: str
    steps: int
    learning_rate: float
    shared: bool = False
    trains: Literal["all", "connector"] = "all"
    max_image_size: int = 0  # pixels of the longer side; 0: the world's own
    min_image_size: int = later_field(0)  # each image's longer side is drawn from here to the maximum; 0: always that
    tokens_per_rank: int = 0  # tokens of a pack; 0: exactly the mixture's samples a step
    understanding_share: float = later_field(0.0)  # of a pack's tokens: what understanding and text fill, whatever else is in it
    packs_per_step: int = later_field(0)  # of all ranks together, a multiple of their number; 0: as `scenes` has one batch
    mixture: MixtureConfig = MixtureConfig()
    text_weight: float = 1.0  # of L_LM beside the objective's other weights (Eq. 3: 1)
    warmup_steps: int = 100
    decay_fraction: float = 0.0  # linear decay over this last share of the steps; 0 is the paper's constant rate
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_learning_rate: float = 0.01  # of the block matrices, where optimizer = "muon"
    encoder_lr_multiplier: float = 1.0  # assumed below 1 in `tiny`'s joint stage, where rates are 40x the paper's

    def __post_init__(self) -> None:
        where = f"stages.{self.name}."
        require(self.name.isidentifier(), "stages.name", self.name, "an identifier")
        require(self.steps >= 1, where + "steps", self.steps, ">= 1")
        require(self.learning_rate > 0, where + "learning_rate", self.learning_rate, "> 0")
        require(self.warmup_steps >= 0, where + "warmup_steps", self.warmup_steps, ">= 0")
        require(0 <= self.decay_fraction <= 1, where + "decay_fraction", self.decay_fraction, "in [0, 1]")
        require(self.text_weight >= 0, where + "text_weight", self.text_weight, ">= 0")
        require(self.encoder_lr_multiplier > 0, where + "encoder_lr_multiplier", self.encoder_lr_multiplier, "> 0")
        require(self.muon_learning_rate > 0, where + "muon_learning_rate", self.muon_learning_rate, "> 0")
        require(self.tokens_per_rank >= 0, where + "tokens_per_rank", self.tokens_per_rank, ">= 0")
        require(0 <= self.understanding_share <= 1, where + "understanding_share", self.understanding_share, "in [0, 1]")
        require(self.packs_per_step >= 0, where + "packs_per_step", self.packs_per_step, ">= 0")
        require(0 <= self.min_image_size <= self.max_image_size, where + "min_image_size", self.min_image_size,
                 f"0 to max_image_size={self.max_image_size}")  # fmt: skip

    @property
    def understanding_tokens(self) -> int:
        """Of a pack, for understanding and text. It follows from what variants leave alone, so they all read the same there."""
        return round(self.understanding_share * self.tokens_per_rank)

    def part_tokens(self, part: Part) -> int:
        """The most tokens that a sample of this part of a pack may have: those that are its own whatever the other part takes."""
        return self.understanding_tokens if part == "understanding" else self.tokens_per_rank - self.understanding_tokens


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and EMA (App. A); learning rates belong to the stages."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    generation_lr_multiplier: float = 4.0  # newly initialised generation parameters
    ema_decay: float = 0.9999
    precision: Literal["bf16", "fp32"] = "bf16"  # bf16: bf16 weights and activations, fp32 master weights

    def __post_init__(self) -> None:
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "two numbers in [0, 1)")
        require(self.grad_clip > 0, "optim.grad_clip", self.grad_clip, "> 0")
        require(self.generation_lr_multiplier > 0, "optim.generation_lr_multiplier", self.generation_lr_multiplier, "> 0")
        require(0 <= self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "in [0, 1)")


@dataclass(frozen=True)
class ParallelConfig:
    """How ranks share the work; no setting changes what is computed, up to rounding."""

    sharding: Literal["none", "fsdp"] = "none"  # fsdp: parameters, gradients, optimiser and averages lie in parts (FSDP2)
    shard_group: int = 0  # ranks that share one copy, a divisor of all; 0: all of them
    compile: Literal["auto", "on", "off"] = "auto"  # decoder blocks (rf_repro.compute.compiled)
    activation_checkpointing: bool = False  # of decoder blocks and encoder layers: computed again in the backward pass

    def __post_init__(self) -> None:
        require(self.shard_group >= 0, "parallel.shard_group", self.shard_group, ">= 0 ranks")
