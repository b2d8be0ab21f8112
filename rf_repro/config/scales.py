"""The named sizes of the one experiment. `paper` holds the paper's numbers; the others say where they differ and why."""

from collections.abc import Callable

from rf_repro.config.data_schema import DataConfig
from rf_repro.config.model_schema import DecoderConfig, EncoderConfig, ModelConfig, PixelConfig, VAEConfig
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.representation_schema import AlignmentConfig, ContinuousConfig, RepresentationConfig
from rf_repro.config.schema import EvalConfig, ExperimentConfig, SamplingConfig
from rf_repro.config.training_schema import MixtureConfig, ObjectiveConfig, OptimConfig, ParallelConfig, StageConfig
from rf_repro.core.errors import UserError


def tiny() -> ExperimentConfig:
    """The scenes world on two CPU cores, minutes a run.

    Assumed throughout: optimiser and schedule (Muon on block matrices, warm-up, linear decay), EMA decay, guidance, codebook
    size, momentum and centring, the sample mixture, the weight of L_LM beside generation, the distance bias. PAPER_MAP.md says
    which of them were measured.
    """
    return ExperimentConfig(
        scale="tiny",
        stages=(
            # The paper starts from pretrained Qwen3 and DINOv3; here the first stage makes both, once, for all variants.
            StageConfig(
                name="pretrain", steps=1200, learning_rate=2e-3, shared=True, decay_fraction=0.6, optimizer="muon",
                mixture=MixtureConfig(generation=0, understanding=64, questions=32, masked_image=64),
            ),
            StageConfig(
                name="joint", steps=3000, learning_rate=2e-3, decay_fraction=0.3, optimizer="muon",
                encoder_lr_multiplier=0.1, text_weight=0.1,
                mixture=MixtureConfig(generation=32, understanding=2, questions=12, text=2),
            ),
        ),
        model=ModelConfig(decoder=DecoderConfig(distance_bias=True)),
        representation=RepresentationConfig(codebook_size=512, momentum=0.99, center=True, warmup_batches=150),
        objective=ObjectiveConfig(time_stratified=True),
        optim=OptimConfig(
            betas=(0.9, 0.98), weight_decay=0.01, generation_lr_multiplier=1.0, ema_decay=0.995
        ),
        sampling=SamplingConfig(cfg_pixel=2.0, shift_base_patches=36),
        evals=EvalConfig(questions_per_type=200),
    )  # fmt: skip


def smoke() -> ExperimentConfig:
    """`tiny` cut to seconds: the whole pipeline for tests. No claim is made from it."""
    return apply_overrides(
        tiny(),
        {
            "scale": "smoke",
            "data.scenes.num_train": 512,
            "model.decoder.width": 32,
            "model.decoder.num_layers": 2,
            "model.decoder.head_dim": 8,
            "model.decoder.ffn_width": 64,
            "model.encoder.width": 24,
            "model.encoder.num_layers": 2,
            "model.encoder.ffn_width": 48,
            "representation.codebook_size": 32,
            "representation.warmup_batches": 4,
            "representation.continuous.width": 32,
            "representation.continuous.steps": 2,
            "representation.alignment.layer": 1,
            "representation.alignment.width": 32,
            "model.vae.width": 8,
            "model.vae.steps": 20,
            "model.vae.batch_size": 8,
            "model.encoder.pretraining.dino_steps": 10,
            "model.encoder.pretraining.siglip_steps": 10,
            "model.encoder.pretraining.batch_size": 8,
            "stages.pretrain.steps": 20,
            "stages.pretrain.warmup_steps": 5,
            "stages.pretrain.mixture.understanding": 8,
            "stages.pretrain.mixture.masked_image": 8,
            "stages.pretrain.mixture.questions": 4,
            "stages.joint.steps": 30,
            "stages.joint.warmup_steps": 5,
            "stages.joint.mixture.generation": 8,
            "stages.joint.mixture.understanding": 1,
            "stages.joint.mixture.questions": 2,
            "stages.joint.mixture.text": 1,
            "sampling.steps": 4,
            "evals.images_per_task": 4,
            "evals.curve_images_per_task": 2,
            "evals.every": 15,
            "evals.questions_per_type": 2,
            "evals.curve_questions_per_type": 1,
            "checkpoint_every": 10,
        },
    )


def small() -> ExperimentConfig:
    """The hardest level of the scenes world at 128 px with a 100M-class model, for one GPU; it stops and resumes at any step.

    Assumed throughout: `tiny` made larger. No run of it has been measured yet.
    """
    return apply_overrides(
        tiny(),
        {
            "scale": "small",
            "data.scenes.image_size": 128,
            "data.scenes.shapes": ["circle", "square", "triangle", "cross", "star", "ring"],
            "data.scenes.colors": ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white"],
            "data.scenes.max_objects": 4,
            "data.scenes.radius": 16.0,
            "data.scenes.radius_jitter": 0.25,
            "data.scenes.rotation": 0.3,
            "data.scenes.grid_step": 4,
            "data.scenes.min_distance": 38.0,
            "data.scenes.background": "textured",
            "model.decoder.width": 640,
            "model.decoder.num_layers": 8,
            "model.decoder.num_heads": 10,
            "model.decoder.num_kv_heads": 5,
            "model.decoder.head_dim": 64,
            "model.decoder.ffn_width": 1728,
            "model.decoder.distance_bias": False,  # as the paper; at `tiny` it made up for few steps
            "model.encoder.width": 384,
            "model.encoder.num_layers": 8,
            "model.encoder.num_heads": 6,
            "model.encoder.ffn_width": 1536,
            "model.encoder.patch_size": 8,
            "model.pixel.patch_size": 8,  # 64 representation tokens over 256 patches: the paper's 1:4
            "model.vae.downsample": 8,
            "model.vae.latent_channels": 16,
            "model.vae.width": 64,
            "model.vae.steps": 6000,
            "model.encoder.pretraining.dino_steps": 9000,
            "model.encoder.pretraining.siglip_steps": 28_000,
            "representation.codebook_size": 1024,
            "representation.continuous.width": 1024,
            "representation.alignment.layer": 4,
            "representation.alignment.width": 1280,
            "stages.pretrain.steps": 8000,
            "stages.joint.steps": 30_000,
            "stages.joint.mixture.generation": 128,
            "stages.joint.mixture.understanding": 8,
            "stages.joint.mixture.questions": 48,
            "stages.joint.mixture.text": 8,
            "optim.ema_decay": 0.999,
            "sampling.shift_base_patches": 256,
            "evals.every": 3000,
        },
    )


def paper() -> ExperimentConfig:
    """The published setting (Sec. 4.1, App. A): Qwen3-30B-A3B, DINOv3 ViT-H+/16, three stages, AdamW."""
    # Assumed, as the paper does not give them: the ratio of samples, the packs of a step (one for each of 128 GPUs), the
    # smallest sizes that images are drawn at, and the weight of the load-balancing loss (Qwen3-MoE's). Of Pixel+RF's samples
    # about 8 are to generate, 4 to understand and 1 is text: that is what `understanding_share` follows from, for all rows.
    shares = MixtureConfig(generation=1, understanding=4, text=1)
    return ExperimentConfig(
        scale="paper",
        stages=(
            StageConfig(
                name="alignment", steps=10_000, learning_rate=5e-5, shared=True, trains="connector", tokens_per_rank=32_768,
                max_image_size=256, packs_per_step=128, mixture=MixtureConfig(generation=0, understanding=1),
                understanding_share=1.0, warmup_steps=2_000,
            ),
            StageConfig(
                name="joint", steps=50_000, learning_rate=5e-5, tokens_per_rank=32_768, packs_per_step=128, max_image_size=256,
                min_image_size=128, mixture=shares, understanding_share=0.35, warmup_steps=2_000,
            ),
            StageConfig(
                name="continued", steps=20_000, learning_rate=2.5e-5, tokens_per_rank=32_768, packs_per_step=128,
                max_image_size=1024, min_image_size=512, mixture=shares, understanding_share=0.15, warmup_steps=2_000,
            ),
        ),
        data=DataConfig(world="image_text", caption_tokens=512, answer_tokens=512),
        model=ModelConfig(
            decoder=DecoderConfig(
                width=2048, num_layers=48, num_heads=32, num_kv_heads=4, head_dim=128, ffn_width=768, num_experts=128,
                num_active_experts=8, vocab_size=151_936, time_conditioning="additive", pretrained="Qwen/Qwen3-30B-A3B",
            ),
            encoder=EncoderConfig(
                kind="dinov3", width=1280, num_layers=32, num_heads=20, ffn_width=5120, patch_size=16,
                pretrained="facebook/dinov3-vith16plus-pretrain-lvd1689m", target_ema_decay=0.9999,
            ),
            pixel=PixelConfig(patch_size=16),
            vae=VAEConfig(
                kind="wan", pretrained="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", downsample=8, latent_channels=16,
            ),
            max_image_size=1024,
        ),
        representation=RepresentationConfig(
            continuous=ContinuousConfig(width=1024),  # assumed: MAR's heads are 1,024 to 1,536 wide
            alignment=AlignmentConfig(layer=16, width=4096),  # assumed: REPA aligns about a third of the way up
        ),
        objective=ObjectiveConfig(router_weight=0.001),
        evals=EvalConfig(images_per_task=320, every=0),
        parallel=ParallelConfig(sharding="fsdp", activation_checkpointing=True),
        checkpoint_every=1_000,
    )  # fmt: skip


def base() -> ExperimentConfig:
    """`paper` for one node of eight 80 GB GPUs and data of the user's: Qwen3-0.6B, DINOv3 ViT-B/16, Wan 2.1's VAE.

    Assumed throughout, as a lab's first budget: models, packs and steps (`rf-repro estimate --scale base` says what they cost);
    the rest is the paper's. No run of it has been measured yet.
    """
    return apply_overrides(
        paper(),
        {
            "scale": "base",
            "model.decoder.pretrained": "Qwen/Qwen3-0.6B",
            "model.decoder.width": 1024,
            "model.decoder.num_layers": 28,
            "model.decoder.num_heads": 16,
            "model.decoder.num_kv_heads": 8,
            "model.decoder.ffn_width": 3072,
            "model.decoder.num_experts": 0,
            "model.decoder.num_active_experts": 0,
            "model.encoder.pretrained": "facebook/dinov3-vitb16-pretrain-lvd1689m",
            "model.encoder.width": 768,
            "model.encoder.num_layers": 12,
            "model.encoder.num_heads": 12,
            "model.encoder.ffn_width": 3072,
            "objective.router_weight": 0.0,
            "representation.alignment.layer": 9,
            "representation.alignment.width": 2048,
            "stages.alignment.steps": 2_000,
            "stages.alignment.packs_per_step": 8,
            "stages.alignment.warmup_steps": 200,
            "stages.joint.steps": 20_000,
            "stages.joint.packs_per_step": 16,
            "stages.joint.warmup_steps": 500,
            "stages.continued.steps": 8_000,
            "stages.continued.packs_per_step": 16,
            "stages.continued.warmup_steps": 500,
        },
    )


SCALES: dict[str, Callable[[], ExperimentConfig]] = {"smoke": smoke, "tiny": tiny, "small": small, "base": base, "paper": paper}


def get_scale(name: str) -> ExperimentConfig:
    """The base config of a scale.

    Raises:
        UserError: there is no such scale.
    """
    if name not in SCALES:
        raise UserError(f"scale {name!r}: unknown; choose one of {', '.join(SCALES)}")
    return SCALES[name]()
