"""What scale `base` loads, built on the spot: tiny random models of the same classes, a tokenizer, and shards of scenes."""

from pathlib import Path
from typing import Any

import torch

from tests.data.tiny_tokenizer import write_tiny_tokenizer

VOCAB = 480  # rows of the decoder's embedding; the tokenizer has fewer


def write_backbone(folder: Path, seed: int = 0) -> Path:
    """A random Qwen3 checkpoint with its tokenizer."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    assert write_tiny_tokenizer(folder) < VOCAB
    return folder


def write_encoder(folder: Path, seed: int = 0) -> Path:
    """A random DINOv3 checkpoint: 24 wide, 2 layers, patches of 8 pixels."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.DINOv3ViTConfig(
        patch_size=8, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_register_tokens=4
    )
    transformers.DINOv3ViTModel(config).save_pretrained(folder)
    return folder


def write_siglip(folder: Path, seed: int = 0) -> Path:
    """A random SigLIP2 checkpoint of the same size."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.Siglip2VisionConfig(
        patch_size=8, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_patches=16
    )
    transformers.Siglip2VisionModel(config).save_pretrained(folder)
    return folder


def write_vae(folder: Path, seed: int = 0) -> Path:
    """A random Wan VAE: 8 pixels a latent cell, 4 channels."""
    import diffusers

    torch.manual_seed(seed)
    vae = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, attn_scales=[], temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    vae.save_pretrained(folder)
    return folder


def base_overrides(folder: Path) -> dict[str, Any]:
    """Overrides that make scale `base` use the models of `write_backbone`, `write_encoder` and `write_vae` in `folder`."""
    stages = ("alignment", "joint", "continued")
    sizes = {"alignment": 64, "joint": 64, "continued": 96}
    return {
        "model.decoder.pretrained": str(folder / "backbone"),
        "model.decoder.vocab_size": VOCAB,
        "model.decoder.width": 32,
        "model.decoder.num_layers": 2,
        "model.decoder.num_heads": 4,
        "model.decoder.num_kv_heads": 2,
        "model.decoder.head_dim": 8,
        "model.decoder.ffn_width": 64,
        "model.encoder.pretrained": str(folder / "encoder"),
        "model.encoder.width": 24,
        "model.encoder.num_layers": 2,
        "model.encoder.num_heads": 2,
        "model.encoder.ffn_width": 48,
        "model.encoder.patch_size": 8,
        "model.encoder.contrastive.pretrained": str(folder / "siglip"),
        "model.encoder.contrastive.width": 24,
        "model.encoder.contrastive.num_layers": 2,
        "model.encoder.contrastive.num_heads": 2,
        "model.encoder.contrastive.ffn_width": 48,
        "model.pixel.patch_size": 8,
        "model.vae.pretrained": str(folder / "vae"),
        "model.vae.latent_channels": 4,
        "model.max_image_size": 96,
        "representation.codebook_size": 64,
        "representation.alignment.layer": 1,
        "representation.alignment.width": 32,
        "representation.continuous.width": 32,
        "optim.precision": "fp32",
        "data.workers": 0,
        "parallel.sharding": "none",
        "parallel.activation_checkpointing": False,
        "sampling.steps": 3,
        "checkpoint_every": 2,
        **{f"stages.{name}.steps": 3 for name in stages},
        **{f"stages.{name}.warmup_steps": 2 for name in stages},
        "stages.alignment.tokens_per_rank": 700,
        **{f"stages.{name}.tokens_per_rank": 1300 for name in stages[1:]},  # each part holds one sample with the longest text
        **{f"stages.{name}.understanding_share": 0.45 for name in stages[1:]},
        **{f"stages.{name}.packs_per_step": 2 for name in stages},
        **{f"stages.{name}.max_image_size": size for name, size in sizes.items()},
        "stages.joint.min_image_size": 32,
        "stages.continued.min_image_size": 64,
    }


def write_models(folder: Path) -> Path:
    """All of them, once."""
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    write_siglip(folder / "siglip")
    write_vae(folder / "vae")
    return folder
