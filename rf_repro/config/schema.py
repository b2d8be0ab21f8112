"""The experiment as nested frozen dataclasses. Each checks itself; `ExperimentConfig` checks what crosses
fields; a `Literal` is checked where values come in (`overrides`).

A field whose value the paper does not give is marked `assumed` with its reason. Off is a first-class value
(`representation.kind = "none"`). Fields declared with `runtime_field` do not change results and stay out of the config hash.
Fields declared with `later_field` joined after records had been published: at their default, which is "off", they stay out too.
"""

import math
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from typing import Any, Literal

from rf_repro.config.data_schema import DataConfig
from rf_repro.config.fields import later_field, require, runtime_field
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.core.records import ACTIONS, Action


@dataclass(frozen=True)
class DecoderConfig:
    """Mixture-of-Transformers decoder: Qwen3's block, with one feed-forward pool per token type (paper Sec. 3.3)."""

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    ffn_width: int = 320  # gated (SwiGLU) inner width: of one dense pool, or of one expert
    num_experts: int = 0  # 0: each pool is one dense feed-forward; else a mixture with top-k routing
    num_active_experts: int = 0
    vocab_size: int = 0  # 0: the tokenizer's
    rope_theta: float = 1e6  # Qwen3's
    norm_eps: float = 1e-6  # Qwen3's
    time_conditioning: Literal["adaln", "additive"] = "adaln"  # assumed: adaLN would add > 1B parameters at 30B scale
    distance_bias: bool = False  # assumed: fixed attention bias from P to P and R that falls with distance
    pretrained: str = ""  # folder or hub id of a Qwen3 checkpoint
    # How the representation and pixel pools start from a pretrained backbone: as copies of its feed-forward, or fresh.
    pool_initialisation: Literal["copy", "random"] = later_field("copy")  # assumed: copies, as BAGEL's generation expert

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_width"):
            require(getattr(self, name) >= 1, f"model.decoder.{name}", getattr(self, name), ">= 1")
        require(self.num_heads % self.num_kv_heads == 0, "model.decoder.num_kv_heads", self.num_kv_heads,
                 f"a divisor of num_heads={self.num_heads}")  # fmt: skip
        require(self.head_dim % 2 == 0, "model.decoder.head_dim", self.head_dim, "even (rotary pairs)")
        require(self.width % 4 == 0, "model.decoder.width", self.width, "a multiple of 4 (2D position embeddings)")
        require(self.num_experts >= 0, "model.decoder.num_experts", self.num_experts, ">= 0")
        require(
            (1 <= self.num_active_experts <= self.num_experts) if self.num_experts else self.num_active_experts == 0,
            "model.decoder.num_active_experts", self.num_active_experts, f"1 to num_experts={self.num_experts}, or 0 with 0",
        )  # fmt: skip


@dataclass(frozen=True)
class EncoderPretrainingConfig:
    """The encoder's own pretraining, before the first stage: it stands for DINOv3 or SigLIP2 where nothing is downloaded.

    `none`: the first stage trains the encoder from random weights. All values are assumed; the steps of the two kinds cost
    the same CPU time at `tiny` (side by side, a self-distillation step costs 1.17 of the other: it has a teacher besides).
    """

    kind: Literal["none", "dino", "siglip"] = "none"
    dino_steps: int = 2550
    siglip_steps: int = 3000
    learning_rate: float = 2e-3
    batch_size: int = 64  # images

    def __post_init__(self) -> None:
        name = "model.encoder.pretraining."
        for key in ("dino_steps", "siglip_steps"):
            require(getattr(self, key) >= 1, name + key, getattr(self, key), ">= 1")
        require(self.learning_rate > 0, name + "learning_rate", self.learning_rate, "> 0")
        require(self.batch_size >= 2, name + "batch_size", self.batch_size, ">= 2 images")

    @property
    def steps(self) -> int:
        """Of this kind; 0 where there is none."""
        return {"none": 0, "dino": self.dino_steps, "siglip": self.siglip_steps}[self.kind]


@dataclass(frozen=True)
class EncoderConfig:
    """Understanding encoder: a ViT, trained jointly; an EMA copy of it gives the representation targets (Sec. 3.1)."""

    kind: Literal["vit", "dinov3", "siglip2"] = "vit"
    width: int = 96
    num_layers: int = 4
    num_heads: int = 3
    ffn_width: int = 288
    patch_size: int = 3  # pixels
    pretrained: str = ""
    target_ema_decay: float = 0.999  # assumed: the paper gives one EMA decay (0.9999) for parameters
    pretraining: EncoderPretrainingConfig = later_field(EncoderPretrainingConfig())

    def __post_init__(self) -> None:
        require(self.width % self.num_heads == 0, "model.encoder.num_heads", self.num_heads, f"a divisor of width={self.width}")
        require(self.width % 4 == 0, "model.encoder.width", self.width, "a multiple of 4 (2D position embeddings)")
        require(self.patch_size >= 1, "model.encoder.patch_size", self.patch_size, ">= 1 pixel")
        require(0 <= self.target_ema_decay < 1, "model.encoder.target_ema_decay", self.target_ema_decay, "in [0, 1)")


@dataclass(frozen=True)
class PixelConfig:
    """Generation pathway: pixels (Sec. 3.2), a frozen VAE's latents, or none (VLM-only; both Sec. 4.4)."""

    space: Literal["pixel", "vae", "none"] = "pixel"
    patch_size: int = 4  # pixels a token covers, whatever the space

    def __post_init__(self) -> None:
        require(self.patch_size >= 1, "model.pixel.patch_size", self.patch_size, ">= 1 pixel")


@dataclass(frozen=True)
class VAEConfig:
    """The frozen VAE of the VAE variants: a small convolutional one trained in-suite (`kl`), or Wan 2.1's (`wan`)."""

    kind: Literal["kl", "wan"] = "kl"
    pretrained: str = ""  # folder or hub id, of `wan`
    downsample: int = 4  # pixels a latent cell covers, a side; Wan: 8
    latent_channels: int = 8  # Wan: 16
    width: int = 32  # channels at half the resolution, where the convolutions start
    kl_weight: float = 1e-4  # of the mean KL of latents, beside the mean squared error of pixels; at 3e-3 channels collapse
    steps: int = 1500
    learning_rate: float = 3e-3
    batch_size: int = 64  # images
    latent_cache: str = runtime_field(
        "", later=True
    )  # folder where latents of images are kept, so that each is encoded once; "": none

    def __post_init__(self) -> None:
        name = "model.vae."
        require(self.downsample in (2, 4, 8), name + "downsample", self.downsample, "2, 4 or 8")
        for key in ("latent_channels", "width", "steps", "batch_size"):
            require(getattr(self, key) >= 1, name + key, getattr(self, key), ">= 1")
        require(self.kl_weight >= 0, name + "kl_weight", self.kl_weight, ">= 0")
        require(not self.latent_cache or self.kind == "wan", name + "latent_cache", self.latent_cache,
                 "unset where model.vae.kind=kl: its latents cost less than reading them")  # fmt: skip
        require(self.learning_rate > 0, name + "learning_rate", self.learning_rate, "> 0")


@dataclass(frozen=True)
class ModelConfig:
    decoder: DecoderConfig = DecoderConfig()
    encoder: EncoderConfig = EncoderConfig()
    pixel: PixelConfig = PixelConfig()
    vae: VAEConfig = later_field(VAEConfig())
    max_image_size: int = later_field(0)  # pixels of the longest side in any stage, where tables of positions end; 0: the world's


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

    kind: Literal["none", "discrete", "continuous", "repa"] = "none"
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
    """Samples of each kind in one optimiser step at `tiny`; relative shares where `tokens_per_rank` packs by length."""

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
        require(self.packs_per_step >= 0, where + "packs_per_step", self.packs_per_step, ">= 0")
        require(0 <= self.min_image_size <= self.max_image_size, where + "min_image_size", self.min_image_size,
                 f"0 to max_image_size={self.max_image_size}")  # fmt: skip


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
    activation_checkpointing: bool = False  # of decoder blocks and encoder layers: computed again in the backward pass

    def __post_init__(self) -> None:
        require(self.shard_group >= 0, "parallel.shard_group", self.shard_group, ">= 0 ranks")


@dataclass(frozen=True)
class SamplingConfig:
    """Two-stage inference (App. A)."""

    steps: int = 25
    cfg_representation: float = 2.0  # w_rep
    cfg_pixel: float = 3.0  # w_pix
    top_k: int = 50  # assumed: the paper says top-k without k
    shift_base_patches: int = 256  # assumed: timestep shift alpha = sqrt(patches / this)
    batch_size: int = runtime_field(256)  # images; changes an image in its last bits at most

    def __post_init__(self) -> None:
        require(self.steps >= 1, "sampling.steps", self.steps, ">= 1")
        require(self.top_k >= 1, "sampling.top_k", self.top_k, ">= 1")
        require(self.shift_base_patches >= 1, "sampling.shift_base_patches", self.shift_base_patches, ">= 1")
        require(self.batch_size >= 1, "sampling.batch_size", self.batch_size, ">= 1")


@dataclass(frozen=True)
class EvalConfig:
    """GenEval on samples of the EMA weights, and questions about held-out images."""

    images_per_task: int = 200  # final score; GenEval has 4 images a prompt, scenes has fewer prompts and more images
    curve_images_per_task: int = 25  # at each `every` steps
    every: int = 500  # steps between points of the learning curve; 0: none
    questions_per_type: int = later_field(0)

    def __post_init__(self) -> None:
        require(self.images_per_task >= 1, "evals.images_per_task", self.images_per_task, ">= 1")
        require(self.curve_images_per_task >= 1, "evals.curve_images_per_task", self.curve_images_per_task, ">= 1")
        require(self.every >= 0, "evals.every", self.every, ">= 0")
        require(self.questions_per_type >= 0, "evals.questions_per_type", self.questions_per_type, ">= 0")


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything a result depends on besides the seed. `stages` run in order; shared ones come first."""

    scale: str
    stages: tuple[StageConfig, ...]
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    representation: RepresentationConfig = RepresentationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    sampling: SamplingConfig = SamplingConfig()
    evals: EvalConfig = EvalConfig()
    parallel: ParallelConfig = runtime_field(ParallelConfig(), later=True)
    checkpoint_every: int = runtime_field(250)  # steps

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        require(len(names) >= 1 and len(set(names)) == len(names), "stages", names, "at least one, names unique")
        shared = [stage.shared for stage in self.stages]
        require(shared == sorted(shared, reverse=True), "stages", names, "shared stages first")
        require(self.checkpoint_every >= 1, "checkpoint_every", self.checkpoint_every, ">= 1 step")
        if self.data.world == "scenes":
            size = self.data.scenes.image_size
            require(size % self.model.pixel.patch_size == 0, "model.pixel.patch_size", self.model.pixel.patch_size,
                     f"a divisor of data.scenes.image_size={size}")  # fmt: skip
            require(size % (2 * self.model.encoder.patch_size) == 0, "model.encoder.patch_size", self.model.encoder.patch_size,
                     f"a divisor of half of data.scenes.image_size={size} (2x2 pooling)")  # fmt: skip
            self._require_unset_where_scenes_do_not_use_it()
        else:
            self._require_what_real_data_needs()
        require(self.representation.kind == "none" or self.model.pixel.space != "none", "representation.kind",
                 self.representation.kind, "none where model.pixel.space=none: nothing is generated")  # fmt: skip
        for stage in self.stages:
            require(stage.mixture.generation == 0 or stage.shared or self.model.pixel.space != "none",
                     f"stages.{stage.name}.mixture.generation", stage.mixture.generation,
                     "0 where model.pixel.space=none: nothing is generated")  # fmt: skip
        if self.model.pixel.space == "vae":
            require(self.model.pixel.patch_size % self.model.vae.downsample == 0, "model.vae.downsample",
                     self.model.vae.downsample, f"a divisor of model.pixel.patch_size={self.model.pixel.patch_size}")  # fmt: skip
        if self.representation.kind == "repa":
            require(self.representation.alignment.layer <= self.model.decoder.num_layers, "representation.alignment.layer",
                     self.representation.alignment.layer, f"at most num_layers={self.model.decoder.num_layers}")  # fmt: skip

    def _require_unset_where_scenes_do_not_use_it(self) -> None:
        """Settings of real data and pretrained weights must not be silently ignored."""
        encoder, decoder = self.model.encoder, self.model.decoder
        used: dict[str, tuple[object, object]] = {  # (value, what it must be)
            "model.encoder.kind": (encoder.kind, "vit"),
            "model.encoder.pretrained": (encoder.pretrained, ""),
            "model.decoder.pretrained": (decoder.pretrained, ""),
            "model.decoder.vocab_size": (decoder.vocab_size, 0),
            "model.max_image_size": (self.model.max_image_size, 0),
            "data.sources": (self.data.sources, ()),
            "data.tokenizer": (self.data.tokenizer, ""),
        }
        for stage in self.stages:
            used[f"stages.{stage.name}.packs_per_step"] = (stage.packs_per_step, 0)
            used[f"stages.{stage.name}.tokens_per_rank"] = (stage.tokens_per_rank, 0)
            used[f"stages.{stage.name}.max_image_size"] = (stage.max_image_size, 0)
        for name, (value, off) in used.items():
            require(value == off, name, value, f"{off!r} where data.world=scenes, which does not use it")

    def _require_what_real_data_needs(self) -> None:
        require(self.model.decoder.vocab_size >= 1, "model.decoder.vocab_size", self.model.decoder.vocab_size,
                 ">= 1 where data.world=image_text: that of the pretrained decoder")  # fmt: skip
        require(not self.model.decoder.distance_bias, "model.decoder.distance_bias", True, "false where data.world=image_text")
        require(not self.objective.time_stratified, "objective.time_stratified", True, "false where data.world=image_text")
        for stage in self.stages:
            where, mixture = f"stages.{stage.name}.", stage.mixture
            require(stage.tokens_per_rank >= 1, where + "tokens_per_rank", stage.tokens_per_rank, ">= 1 token")
            require(stage.packs_per_step >= 1, where + "packs_per_step", stage.packs_per_step, ">= 1 pack")
            require(mixture.questions == mixture.masked_image == 0, where + "mixture", asdict(mixture),
                     "of generation, understanding and text where data.world=image_text")  # fmt: skip
            for key in ("min_image_size", "max_image_size"):
                size = getattr(stage, key)
                require(size % self.image_stride == 0 and (size or key == "min_image_size"), where + key, size,
                         f"a multiple of {self.image_stride} pixels (2x2 encoder patches, and pixel patches)")  # fmt: skip
            require(stage.max_image_size <= self.model.max_image_size, where + "max_image_size", stage.max_image_size,
                     f"at most model.max_image_size={self.model.max_image_size}")  # fmt: skip
        require(self.model.max_image_size % self.image_stride == 0, "model.max_image_size", self.model.max_image_size,
                 f"a multiple of {self.image_stride} pixels")  # fmt: skip
        require(self.model.encoder.kind != "vit", "model.encoder.kind", "vit", "dinov3 or siglip2 where data.world=image_text")

    @property
    def image_stride(self) -> int:
        """Sides of images are multiples of this, pixels: whole pooled features and whole pixel patches."""
        return math.lcm(2 * self.model.encoder.patch_size, self.model.pixel.patch_size)

    @property
    def max_image_size(self) -> int:
        """Pixels of the longest side of an image; tables of positions reach so far."""
        return self.model.max_image_size or self.data.scenes.image_size

    @property
    def actions(self) -> tuple[Action, ...]:
        """What completes a run of a variant, in order. On real data that is training: images and their scores are made by
        commands of their own, which name prompts, sizes and detectors."""
        if self.data.world != "scenes":
            return ("train",)
        return ACTIONS if self.model.pixel.space != "none" else ("train", "evaluate")

    def stage(self, name: str) -> StageConfig:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"stages.{name}: no such stage; there are {', '.join(s.name for s in self.stages)}")

    def to_dict(self) -> dict[str, Any]:
        """Nested JSON-ready dictionary of every field."""
        return _plain(self, results_only=False)

    def result_hash(self) -> str:
        """SHA-256 over the fields that affect results: the run's identity together with its seed."""
        return content_hash(_plain(self, results_only=True))


def _plain(value: Any, results_only: bool) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _plain(getattr(value, item.name), results_only)
            for item in fields(value)
            if not results_only or _is_hashed(item, getattr(value, item.name))
        }
    if isinstance(value, tuple):
        return [_plain(item, results_only) for item in value]
    return value


def _is_hashed(item: Field[Any], value: Any) -> bool:
    if not item.metadata.get("affects_results", True):
        return False
    return not (item.metadata.get("later") and _plain(value, results_only=True) == _plain(item.default, results_only=True))
