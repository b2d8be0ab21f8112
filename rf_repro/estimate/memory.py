"""Bytes on one GPU: what is held throughout a stage, and what each phase of a step adds at its peak.

The states are the trainer's: with `parallel.sharding=none` all of them on every GPU (rf_repro.train.optim, rf_repro.train.ema),
with `fsdp` an even part of each. Activations are what autograd keeps of rf_repro.model.mot, term by term. What is not in the list
is not counted: the temporaries of elementwise operations, the allocator's fragmentation, batches that a loader holds in advance.

b bytes of a number of the model, d width, H query heads, K key-value heads, h head_dim, f feed-forward width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.estimate.parameters import Parameters
from rf_repro.model.encoders import encoder_of
from rf_repro.model.rf_model import TEXT_ROWS
from rf_repro.model.spaces import space_of
from rf_repro.model.workload import GENERATION, MASKED_IMAGE, SampleShape, Workload
from rf_repro.representation.assignment import BLOCK, CANDIDATES, CHUNK_NUMBERS
from rf_repro.representation.kinds import representation_of
from rf_repro.train.muon import STACKED_NUMBERS
from rf_repro.worlds import world_of

FP32, INT64 = 4, 8
CONTEXT_BYTES = 2 * 10**9  # assumed: CUDA context, cuBLAS workspaces, NCCL channels
VAE_MAPS = 3  # assumed: feature maps at full resolution that are live together while the VAE encodes without gradient


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU. `states` are always there; of `phases`, which follow each other in a step, one at a time. `pack`: whose they
    are."""

    states: dict[str, int]
    phases: dict[str, dict[str, int]]
    pack: str = ""

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def at_peak(self) -> dict[str, int]:
        """Component -> bytes at the step's peak."""
        return self.states | self.phases[self.peak_phase]

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())


def is_sharded(config: ExperimentConfig, gpus: int) -> bool:
    """Whether states lie in parts: one GPU alone has none to share them with (rf_repro.compute.sharding)."""
    return config.parallel.sharding == "fsdp" and gpus > 1


def shard_group(config: ExperimentConfig, gpus: int) -> int:
    """GPUs that share one copy of the states; 1: each holds them all.

    Raises:
        UserError: the group does not divide the number of GPUs.
    """
    group = config.parallel.shard_group or gpus if is_sharded(config, gpus) else 1
    if gpus % group:
        raise UserError(f"parallel.shard_group={group}: must be a divisor of --gpus {gpus}; 0 is all of them")
    return group


def stage_memory(config: ExperimentConfig, stage: StageConfig, parameters: Parameters, ranks: int) -> Memory:
    """Memory of each rank with the pack that needs most."""
    packs = world_of(config).extreme_packs(config, stage, ranks)
    found = [pass_memory(config, stage, parameters, work, name) for name, work in packs.items()]
    return max(found, key=lambda memory: memory.peak)


def pass_memory(config: ExperimentConfig, stage: StageConfig, parameters: Parameters, work: Workload, pack: str = "") -> Memory:
    """Memory of a rank whose passes are all this one."""
    b = 2 if config.optim.precision == "bf16" else FP32
    group, is_fsdp = shard_group(config, work.ranks), is_sharded(config, work.ranks)
    checkpointing = config.parallel.activation_checkpointing
    trained = parameters.trained(stage)
    # With fsdp, a step's gradients are summed in float32 and in parts; without, in the model's precision.
    gradients = FP32 * trained.total / group if is_fsdp else b * trained.total

    decoder, encoder = _decoder(config, parameters, work, b), _encoder(config, work, b)
    learns_all = stage.trains == "all"
    input_of = (work.total(lambda shape: shape.layout.length) * config.model.decoder.width * b,
                work.total(lambda shape: shape.encoded) * config.model.encoder.width * b)  # fmt: skip
    layers = (config.model.decoder.num_layers, config.model.encoder.num_layers)
    kept = {
        "decoder_activations": layers[0] * (input_of[0] if checkpointing else decoder.kept),
        # A frozen encoder, below which nothing is learned, keeps nothing.
        "encoder_activations": layers[1] * (input_of[1] if checkpointing else encoder.kept) * learns_all,
    }
    block, outside = _gathered(config, parameters) if is_fsdp else (0.0, 0)
    # Gradients of a block, as computed and in float32 to be summed over the group; those of what is in no block come last.
    summed = max(b * outside + (b + FP32) * block, (b + FP32) * outside) if learns_all else (b + FP32) * trained.total
    images = {"images_and_targets": _images(config, work, b)}
    phases: dict[str, dict[str, float]] = {
        "targets": _targets(config, work, b) | images,
        "forward": {
            **kept,
            "working_block": max(decoder.passing, 0 if learns_all else encoder.kept),
            "head_activations": _heads(config, work, b),
            "logits": _logits(config, parameters, work),
            "gathered_weights": b * (2 * block + outside),
            **({"gradients": gradients} if work.passes > 1 else {}),  # of the passes before
            **images,
        },
        # Gradients come while activations go: what a checkpointed block keeps is small enough to count beside them all.
        "backward": {
            **(kept if checkpointing else {}),
            "working_block": max(decoder.kept + decoder.passing, encoder.kept * learns_all),
            "gradients": gradients,
            "gathered_weights": b * (2 * block + outside),
            "gathered_gradients": summed if is_fsdp else 0,
            **images,
        },
        "optimizer step": _optimizer_step(config, stage, parameters, b, group),
    }
    states = _states(config, stage, parameters, is_fsdp, group)
    return Memory(_bytes(states), {name: _bytes(parts) for name, parts in phases.items()}, pack)


def _states(config: ExperimentConfig, stage: StageConfig, parameters: Parameters, is_fsdp: bool, group: int) -> dict[str, float]:
    is_bf16 = config.optim.precision == "bf16"
    b = 2 if is_bf16 else FP32
    trained, beside = parameters.trained(stage), parameters.beside
    held = parameters.total + beside.get("masked_image_head", 0)
    moments = 2 * trained.total - (trained.block_matrices if stage.optimizer == "muon" else 0)
    sharded = {
        # With fsdp the weights are the masters; else both are there, and a copy of frozen weights in float32 too.
        "weights": 0 if is_fsdp else b * held,
        "master_weights": FP32 * (held if is_bf16 or is_fsdp else held - trained.total),
        "optimizer_moments": FP32 * moments,
        "ema_weights": FP32 * parameters.total,
        "target_encoder_average": FP32 * beside.get("target_encoder", 0),
    }
    whole = {
        "target_encoder": b * beside.get("target_encoder", 0),
        **{name: FP32 * size for name, size in beside.items() if name not in ("target_encoder", "masked_image_head")},
        "context": CONTEXT_BYTES,
    }
    return {name: size / group for name, size in sharded.items()} | whole


def _optimizer_step(config: ExperimentConfig, stage: StageConfig, parameters: Parameters, b: int, group: int) -> dict[str, float]:
    """Gradients in float32. With Muon, once AdamW has stepped and dropped its own, its gradients and what it makes of them."""
    trained, decoder = parameters.trained(stage), config.model.decoder
    gradients = {"gradients": FP32 * trained.total / group}
    if stage.optimizer != "muon" or not trained.block_matrices:
        return gradients
    # The encoder's are stepped before, where they have a rate of their own.
    alone = parameters.parts["encoder"].block_matrices if stage.encoder_lr_multiplier != 1 else 0
    updates = trained.block_matrices - alone
    # Experts are no matrices: the largest are the pools' or attention's first.
    rows = (decoder.num_heads + 2 * decoder.num_kv_heads) * decoder.head_dim if decoder.num_experts else 2 * decoder.ffn_width
    pools = 1 if decoder.num_experts else sum(name.startswith("pool_") for name in parameters.parts)
    matrix = rows * decoder.width
    stacked = min(decoder.num_layers * pools * matrix, max(STACKED_NUMBERS, matrix))
    muon: dict[str, float] = {
        "gradients": FP32 * trained.block_matrices,
        "updates": FP32 * updates,
        # A stack, the same of norm 1, and in the arithmetic of the run; results of the others.
        "orthogonalised": (2 * FP32 + b) * stacked + b * max(updates - stacked, 0),
    }
    return max(gradients, muon, key=lambda parts: sum(parts.values()))


def _bytes(parts: Mapping[str, float]) -> dict[str, int]:
    return {name: round(size) for name, size in parts.items() if size}


def _gathered(config: ExperimentConfig, parameters: Parameters) -> tuple[float, int]:
    """Parameters that FSDP2 gathers: of a decoder block, of which two are whole at a time (one computes, the next is fetched),
    and of what is in no block, which stays whole from the forward to the end of the backward pass. An encoder layer is
    smaller."""
    blocks = {"attention", "pool_understanding", "pool_representation", "pool_pixel", "time_modulation"}
    block = sum(part.total for name, part in parameters.parts.items() if name in blocks) / config.model.decoder.num_layers
    return block, sum(part.total for name, part in parameters.parts.items() if name not in blocks | {"encoder"})


@dataclass(frozen=True)
class _Block:
    """Bytes of one block over a whole pack: kept for its backward pass, and passing while it computes."""

    kept: float
    passing: float = 0.0


def _decoder(config: ExperimentConfig, parameters: Parameters, work: Workload, b: int) -> _Block:
    decoder = config.model.decoder
    d, f, H, K = decoder.width, decoder.ffn_width, decoder.num_heads, decoder.num_kv_heads
    h = decoder.head_dim
    tokens = work.total(lambda shape: shape.layout.length)
    # Norms keep their normalised input, products their input: normalised and scaled before attention and before the pools;
    # normalised, rotated queries and keys; values; attention's output, as computed and gathered.
    token = b * (4 * d + 4 * H * h + 3 * K * h) + FP32 * (2 + 2 * H + K)
    passing = scaled = 0.0
    if decoder.num_experts:
        # Results of all choices, and the same gathered to be summed, or their gradients.
        passing = tokens * decoder.num_active_experts * b * 2 * d
        # Of each choice: its row, gate and up, silu, product, weighted product; its index, its order there and back, its
        # weight twice. Of each token: the router's probabilities.
        token += decoder.num_active_experts * (b * (d + 5 * f) + 3 * INT64 + 2 * FP32) + FP32 * decoder.num_experts
    else:
        token += 4 * f * b
    if "time_modulation" in parameters.parts:
        # What is scaled: all tokens' before and after attention, of which pixels' are a part; pixels' alone before and after
        # their pool.
        scaled = 2 * d * b * (tokens + work.tokens("pixel"))
    if not decoder.distance_bias:
        return _Block(tokens * token + scaled, passing)
    # The bias is dense, so scores are computed whole, without the fused kernel: probabilities stay, bias and scores pass.
    scores = b * H * work.total(lambda shape: shape.layout.length**2)
    return _Block(tokens * (token - b * H * h - FP32 * H) + scaled + scores, max(2 * scores, passing))


def _encoder(config: ExperimentConfig, work: Workload, b: int) -> _Block:
    """Kept of two norms, of queries, keys and values, of attention's output and of the feed-forward; in transformers' layers, of
    residuals besides, and of DINOv3's rotated queries and keys and its layer scales. The masked-image head, one more block, is
    spread over the encoder's."""
    encoder = config.model.encoder
    w, f, layers = encoder.width, encoder.ffn_width, encoder.num_layers
    widths, inner = encoder_of(encoder).kept(encoder)
    token = b * (widths * w + inner * f)
    in_head = work.samples[MASKED_IMAGE] * work.shapes[MASKED_IMAGE][0].encoded if MASKED_IMAGE in work.samples else 0
    return _Block(token * (work.total(lambda shape: shape.encoded) + in_head / layers))


def _heads(config: ExperimentConfig, work: Workload, b: int) -> float:
    """What the diffusion head of continuous tokens, or REPA's projector, keeps."""
    if GENERATION not in work.samples:
        return 0
    cost = representation_of(config).cost(config, b)
    predicted = work.tokens("representation") - work.samples[GENERATION] if cost.token_bytes else 0
    return cost.token_bytes * predicted + cost.pixel_bytes * work.tokens("pixel")


def _logits(config: ExperimentConfig, parameters: Parameters, work: Workload) -> float:
    """Cross-entropy keeps float32 log-probabilities of codes; while it goes back through the largest logits there are their
    gradient and the logits' besides. Text's come in chunks that are computed again, so of one chunk alone."""
    rows = min(work.total(lambda shape: shape.predictions), TEXT_ROWS)
    text = rows * parameters.parts["text_head"].total // config.model.decoder.width
    codes = work.total(lambda shape: shape.features) * representation_of(config).cost(config, FP32).codes
    return FP32 * (text + codes + 2 * max(text, codes))


def _images(config: ExperimentConfig, work: Workload, b: int) -> float:
    """Of all passes of the step: images in float32, clean, noise and noisy tokens. Of one: images as the encoder takes them,
    predicted tokens and their velocities' error in float32."""
    pixels = work.total(lambda shape: 3 * shape.image_size**2)
    numbers = work.tokens("pixel") * space_of(config.model).token_dim(config.model) if GENERATION in work.samples else 0
    return pixels * (FP32 * work.passes + b) + (3 * work.passes + 3) * FP32 * numbers


def _targets(config: ExperimentConfig, work: Workload, b: int) -> dict[str, float]:
    """Before the forward pass and without gradient, for all passes of the step at once: the EMA encoder, and the assignment of
    its features to codes, some rows at a time; and for one pass after the other the VAE's encoding."""
    encoder = config.model.encoder
    features, encoded = (work.passes * work.total(quantity) for quantity in (lambda s: s.features, lambda s: s.targets))
    codes = representation_of(config).cost(config, b).codes
    chunk, kept = min(features * codes, CHUNK_NUMBERS), min(codes, BLOCK * CANDIDATES)
    parts = {
        "vq_scores": FP32 * (2 * chunk + features * kept + 2 * chunk / max(codes, 1) * kept),  # the last in float64
        "target_features": FP32 * 2 * features * encoder.width,
        "target_activations": encoded * b * (6 * encoder.width + 4 * encoder.ffn_width),
    }
    if (width := space_of(config.model).widest(config.model)) and GENERATION in work.samples:

        def pixels(shape: SampleShape) -> int:
            return shape.image_size**2 if shape.tokens("pixel") else 0

        parts["vae_activations"] = VAE_MAPS * FP32 * width * work.total(pixels)
    return parts
