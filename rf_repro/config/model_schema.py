"""What is built: the part of the schema (`rf_repro.config.schema`) that describes the model."""

from dataclasses import dataclass
from typing import Literal

from rf_repro.config.fields import later_field, require, runtime_field


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
class ContrastiveConfig:
    """The SigLIP2 that Table 3e sets against a pretrained DINOv3. What is not set is as in the one of its size class
    (`ablations.variants.SIGLIP_PARTNERS`)."""

    pretrained: str = ""  # folder or hub id
    width: int = 0
    num_layers: int = 0
    num_heads: int = 0
    ffn_width: int = 0


@dataclass(frozen=True)
class EncoderConfig:
    """Understanding encoder: a ViT, trained jointly; an EMA copy of it gives the representation targets (Sec. 3.1)."""

    kind: str = "vit"  # of the registry ENCODERS
    width: int = 96
    num_layers: int = 4
    num_heads: int = 3
    ffn_width: int = 288
    patch_size: int = 3  # pixels
    pretrained: str = ""
    target_ema_decay: float = 0.999  # assumed: the paper gives one EMA decay (0.9999) for parameters
    pretraining: EncoderPretrainingConfig = later_field(EncoderPretrainingConfig())
    contrastive: ContrastiveConfig = runtime_field(ContrastiveConfig(), later=True)  # what one row makes of it is in its hash

    def __post_init__(self) -> None:
        require(self.width % self.num_heads == 0, "model.encoder.num_heads", self.num_heads, f"a divisor of width={self.width}")
        require(self.width % 4 == 0, "model.encoder.width", self.width, "a multiple of 4 (2D position embeddings)")
        require(self.patch_size >= 1, "model.encoder.patch_size", self.patch_size, ">= 1 pixel")
        require(0 <= self.target_ema_decay < 1, "model.encoder.target_ema_decay", self.target_ema_decay, "in [0, 1)")


@dataclass(frozen=True)
class PixelConfig:
    """Generation pathway: pixels (Sec. 3.2), a frozen VAE's latents, or none (VLM-only; both Sec. 4.4)."""

    space: str = "pixel"  # of the registry SPACES
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
