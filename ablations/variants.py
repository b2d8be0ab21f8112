"""Every variant of the paper, once: tables that show one row share its run.

All have the same architecture, data and steps (paper Sec. 4.4); what a row changes is written here and nowhere else.
"""

from typing import Literal

from ablations.grid import Overrides, Variant
from rf_repro.config.schema import ExperimentConfig

RF: Overrides = {"representation.kind": "discrete"}

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
    mixtures = {f"stages.{stage.name}.mixture.generation": 0 for stage in base.stages if not stage.shared}
    return {"model.pixel.space": "none", **mixtures}


def _siglip(base: ExperimentConfig) -> Overrides:
    if base.model.encoder.kind == "vit":
        return {**_no_generation(base), **_pretrained_in_suite("siglip")}
    return {
        **_no_generation(base),
        "model.encoder.kind": "siglip2",
        "model.encoder.pretrained": "google/siglip2-so400m-patch16-naflex",  # assumed: the paper names no size
        "model.encoder.width": 1152,
        "model.encoder.num_layers": 27,
        "model.encoder.num_heads": 16,
        "model.encoder.ffn_width": 4304,
    }


def _dino(base: ExperimentConfig) -> Overrides:
    """Where the scale's encoder is DINOv3 already, this is VLM-only."""
    pretrained = _pretrained_in_suite("dino") if base.model.encoder.kind == "vit" else {}
    return {**_no_generation(base), **pretrained}


def _pretrained_in_suite(kind: Literal["dino", "siglip"]) -> Overrides:
    """An encoder with its own pretraining, which the first stage then spares: a tenth of the rate, no masked images.

    Assumed: that is how the second stage treats the encoder too; at the full rate the first stage would overwrite what
    tells the two encoders apart.
    """
    return {
        "model.encoder.pretraining.kind": kind,
        "stages.pretrain.encoder_lr_multiplier": 0.1,
        "stages.pretrain.mixture.masked_image": 0,
    }


VLM_ONLY = Variant("vlm_only", "VLM-only", _no_generation)
VLM_SIGLIP = Variant("vlm_siglip", "VLM-only, SigLIP-style encoder", _siglip)
VLM_DINO = Variant("vlm_dino", "VLM-only, DINO-style encoder", _dino)
