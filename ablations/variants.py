"""Every variant of the paper, once: tables that show one row share its run.

All have the same architecture, data and steps (paper Sec. 4.4); what a row changes is written here and nowhere else.
"""

from typing import Literal

from ablations.grid import Overrides, Variant
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.model.encoders import encoder_of

RF: Overrides = {"representation.kind": "discrete"}
SPARED = 0.1  # share of the learning rate for an encoder that was pretrained before

# (layers, width) of a DINOv3 ViT -> the SigLIP2 that Table 3e sets against it. Of those for images of any size there are two, of
# 86 and 412 million parameters: the first is of ViT-B's class; the second is the next there is to ViT-L (303 million) and to the
# paper's ViT-H+ (841 million), and what the paper most likely used (assumed: it names no size).
_BASE: Overrides = {
    "pretrained": "google/siglip2-base-patch16-naflex", "width": 768, "num_layers": 12, "num_heads": 12, "ffn_width": 3072
}  # fmt: skip
_SO400M: Overrides = {
    "pretrained": "google/siglip2-so400m-patch16-naflex", "width": 1152, "num_layers": 27, "num_heads": 16, "ffn_width": 4304
}  # fmt: skip
SIGLIP_PARTNERS: dict[tuple[int, int], Overrides] = {(12, 768): _BASE, (24, 1024): _SO400M, (32, 1280): _SO400M}

PIXEL = Variant("pixel", "Pixel", {})
PIXEL_RF = Variant("pixel_rf", "Pixel+RF", RF)
VAE = Variant("vae", "VAE", {"model.pixel.space": "vae"})
VAE_RF = Variant("vae_rf", "VAE+RF", {"model.pixel.space": "vae", **RF})
REPA = Variant("repa", "REPA", {"representation.kind": "repa"})
CONTINUOUS = Variant("continuous", "Continuous", {"representation.kind": "continuous"})


def codebook(key: str, label: str, numerator: int, denominator: int = 1) -> Variant:
    """Pixel+RF with a codebook of `numerator / denominator` times the scale's size."""

    def overrides(base: ExperimentConfig) -> Overrides:
        return {**RF, "representation.codebook_size": base.representation.codebook_size * numerator // denominator}

    return Variant(key, label, overrides)


def _no_generation(base: ExperimentConfig) -> Overrides:
    """Neither a generation pathway nor samples for it; the understanding samples of a step stay the same."""
    generating = [stage.name for stage in base.stages if not stage.shared and stage.mixture.generation]
    return {"model.pixel.space": "none", **{f"stages.{name}.mixture.generation": 0 for name in generating}}


def _siglip(base: ExperimentConfig) -> Overrides:
    if not encoder_of(base.model.encoder).is_pretrained:
        return {**_no_generation(base), **_pretrained_in_suite(base, "siglip")}
    if why := lacks_siglip(base):
        raise UserError(why)
    fields = {"kind": "siglip2", **siglip_of(base)}
    changed = {key: value for key, value in fields.items() if getattr(base.model.encoder, key) != value}
    return {**_no_generation(base), **{f"model.encoder.{key}": value for key, value in changed.items()}}


def siglip_of(base: ExperimentConfig) -> Overrides:
    """Fields of the SigLIP2 encoder that stands beside the base's: of its size class, but for what the base says itself."""
    encoder = base.model.encoder
    own = {key: value for key, value in vars(encoder.contrastive).items() if value}
    return {**SIGLIP_PARTNERS.get((encoder.num_layers, encoder.width), {}), **own}


def lacks_siglip(base: ExperimentConfig) -> str:
    """Why there is no SigLIP2 of the size class of the base's encoder; empty where there is, or one is trained in-suite."""
    encoder = base.model.encoder
    if not encoder_of(encoder).is_pretrained or set(_BASE) <= set(siglip_of(base)):
        return ""
    known = ", ".join(f"{layers} layers of width {width}" for layers, width in SIGLIP_PARTNERS)
    return (
        f"model.encoder: has {encoder.num_layers} layers of width {encoder.width}: Table 3e has no SigLIP2 of that size class, "
        f"as it has for {known}; name one by model.encoder.contrastive (pretrained, {', '.join(list(_BASE)[1:])}), or leave out "
        "table3e"
    )


def _dino(base: ExperimentConfig) -> Overrides:
    """Where the scale's encoder is DINOv3 already, this is VLM-only."""
    pretrained = {} if encoder_of(base.model.encoder).is_pretrained else _pretrained_in_suite(base, "dino")
    return {**_no_generation(base), **pretrained}


def _pretrained_in_suite(base: ExperimentConfig, kind: Literal["dino", "siglip"]) -> Overrides:
    """An encoder with its own pretraining, which the stages that all variants share then spare: a tenth of the rate, no masked
    images.

    Assumed: that is how the second stage treats the encoder too; at the full rate the first stage would overwrite what
    tells the two encoders apart.
    """
    found: dict[str, object] = {"model.encoder.pretraining.kind": kind}
    for stage in base.stages:
        if stage.shared and stage.trains == "all":
            if stage.encoder_lr_multiplier != SPARED:
                found[f"stages.{stage.name}.encoder_lr_multiplier"] = SPARED
            if stage.mixture.masked_image:
                found[f"stages.{stage.name}.mixture.masked_image"] = 0
    return found


VLM_ONLY = Variant("vlm_only", "VLM-only", _no_generation)
VLM_SIGLIP = Variant("vlm_siglip", "VLM-only, SigLIP-style encoder", _siglip)
VLM_DINO = Variant(
    "vlm_dino", "VLM-only, DINO-style encoder", _dino, twin=VLM_ONLY
)  # which it is where DINOv3 is the scale's own
