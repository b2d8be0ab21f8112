"""What sampling and answering cost on one GPU: whether the model goes whole on it or pool by pool, memory, hours.

Memory is the sampler's own count (rf_repro.sample.footprint). Hours follow from what bounds each phase: texts, images and
pixels by matrix products at training's utilisation, tokens one by one by the weights and caches that each step reads, or by
Python, which launches every kernel; loading by what the host reads a second.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Literal, assert_never

from evaluators.vlm.options import BATCH_SIZE
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import Size
from rf_repro.estimate.flops import step_flops
from rf_repro.estimate.gpus import GPU
from rf_repro.estimate.memory import CONTEXT_BYTES, FP32
from rf_repro.estimate.parameters import Parameters, count_by_pool, count_parameters, largest_tensor
from rf_repro.estimate.plan import DEFAULT_MFU
from rf_repro.experiment.sampling import TOKENS_AT_ONCE, check_size, image_tokens
from rf_repro.model.encoders import encoder_of
from rf_repro.model.layout import POOL_OF, Pool, SampleLayout, Span, SpanKind
from rf_repro.model.spaces import space_of
from rf_repro.model.workload import GENERATION, SampleShape, Workload
from rf_repro.sample.footprint import Tokens, answering_bytes, kv_bytes, parked_bytes, peak, sampling_bytes, tokens_of
from rf_repro.sample.phases import PARKED_AT_ONCE

ActionName = Literal["sample", "answer"]

BANDWIDTH_SHARE = 0.6  # assumed: of a GPU's bandwidth, reached by products of few rows
# Assumed: a decoder block's 60 operations, which Python launches one by one in some 13 us each (30 to 45 in the profile of a
# training step on an H200, benchmarks/results/paper_step_1.7b_h200_profile.txt, the profiler's own time included).
LAUNCH_SECONDS = 8e-4
READ_BYTES = 2e9  # assumed: a second, that a process reads of a checkpoint, converts and sends; checking it for damage likewise
# What `step_flops` counts that sampling does not do; predictions that it counts for all tokens are made one by one.
TRAINING_ALONE = ("alignment_projector", "vae_encode", "target_encoder", "vq_assignment")
QUESTION_TOKENS, ANSWER_TOKENS = 64, 16  # assumed: of a question beside its image, and of its answer


@dataclass(frozen=True)
class PhaseEstimate:
    """One pool's work on the device. `weights`: bytes of what is loaded for it; `working`: component -> bytes beside them at the
    peak; `seconds`: of all images or questions, without loading."""

    weights: int
    working: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class InferenceEstimate:
    """One action on one GPU.

    Attributes:
        device_bytes: on the GPU at the peak of the phase that needs most.
        host_bytes: of the process: keys and values between phases, and the largest tensor while it is loaded. A page cache that
            holds the checkpoint is not counted; it makes loading again faster.
        phases: whether pools take turns on the GPU; else all that the action needs is loaded once.
        hours: of one GPU, for all images or questions, loading included.
        fits: whether `device_bytes` are there.
        batch: images or questions together.
        by_pool: what each pool does, in order.
        beside: bytes on the GPU besides weights and work: CUDA's, and a VAE.
        loading_seconds: of the hours.
    """

    device_bytes: int
    host_bytes: int
    phases: bool
    hours: float
    fits: bool
    batch: int
    by_pool: dict[Pool, PhaseEstimate]
    beside: int
    loading_seconds: float

    @property
    def seconds(self) -> float:
        """Of the work itself, for all images or questions."""
        return sum(phase.seconds for phase in self.by_pool.values())


def estimate_action(
    config: ExperimentConfig,
    action: ActionName,
    gpu: GPU,
    *,
    size: Size | None = None,
    images: int = 0,
    questions: int = 0,
    text_tokens: int | None = None,
) -> InferenceEstimate:
    """One action of a run on one GPU, in full batches. A share of it takes as much less, but loads for itself.

    Args:
        size: (H, W) of the images that are made, or asked about; None: the world's usual one.
        images: to sample.
        questions: to answer, about one image each.
        text_tokens: of a prompt or a question; None: as many as `data.caption_tokens` allows, or 64.

    Raises:
        UserError: a run that draws no images, or none of this size.
    """
    match action:
        case "sample":
            size = check_size(config, size)
            text = config.data.caption_tokens if text_tokens is None else text_tokens
            return _Costs(config, gpu).sampling(size, text, images)
        case "answer":
            size = size or (config.max_image_size, config.max_image_size)
            return _Costs(config, gpu).answering(size, QUESTION_TOKENS if text_tokens is None else text_tokens, questions)
    assert_never(action)


@lru_cache(maxsize=64)
def _counts(config: ExperimentConfig) -> tuple[dict[Pool | None, int], Parameters, int]:
    """Parameters by pool and by part, and the largest tensor's: a plan asks for the same config again and again."""
    return count_by_pool(config), count_parameters(config), largest_tensor(config)


class _Costs:
    """Of one config on one kind of GPU."""

    def __init__(self, config: ExperimentConfig, gpu: GPU) -> None:
        self.config, self.gpu = config, gpu
        self.b = 2 if config.optim.precision == "bf16" else FP32
        self.numbers, self.parameters, self.largest = _counts(config)

    # Actions

    def sampling(self, size: Size, num_text: int, images: int) -> InferenceEstimate:
        config, sampling = self.config, self.config.sampling
        tokens = tokens_of(config, size, num_text)
        batch = max(1, min(sampling.batch_size, TOKENS_AT_ONCE // (image_tokens(config, size) + num_text)))
        batch = min(batch, images or batch)
        seconds: dict[Pool, float] = {"understanding": self._pass_seconds(self.flops(_drawn(tokens.text), batch))}
        if tokens.representation:
            rows = batch * (1 + (sampling.cfg_representation != 1))
            # A step for the start token, and one for the last token too, whose keys pixels see.
            seconds["representation"] = self._decoding_seconds("representation", rows, tokens.text, tokens.representation)
        rows = batch * (1 + (sampling.cfg_pixel != 1))
        # Decoding latents costs what encoding them does (assumed).
        decoding = batch * space_of(config.model).encode_flops(config.model, round((size[0] * size[1]) ** 0.5))
        step = self._pass_seconds(self.denoising_flops(tokens, rows))
        seconds["pixel"] = sampling.steps * step + self._matrix_seconds(decoding)

        beside = CONTEXT_BYTES + FP32 * sum(space_of(config.model).stored(config.model).values())
        whole, working = sum(self.numbers.values()), sampling_bytes(config, size, tokens, batch, self.b, phases=False)
        phases = self.b * whole + peak(working) + beside > self.gpu.memory
        if phases:
            working = sampling_bytes(config, size, tokens, batch, self.b, phases=True)
        parked = parked_bytes(config, tokens, images, self.b) if phases else 0
        groups = max(1, ceil(parked / PARKED_AT_ONCE))
        read = self.numbers[None] + groups * sum(self.numbers[pool] for pool in working) if phases else whole
        batches = ceil(images / batch)
        by_pool = {}
        for pool, parts in working.items():
            numbers = self.numbers[None] + self.numbers[pool] if phases else whole
            by_pool[pool] = PhaseEstimate(self.b * numbers, parts, seconds[pool] * batches)
        return self._estimate(batch, by_pool, beside, phases, min(parked, PARKED_AT_ONCE), read)

    def answering(self, size: Size, num_text: int, questions: int) -> InferenceEstimate:
        config, patch, batch = self.config, self.config.model.encoder.patch_size, min(BATCH_SIZE, questions or BATCH_SIZE)
        patches = size[0] * size[1] // patch**2
        encoded = patches + encoder_of(config.model.encoder).prefix_tokens(config.model.encoder)
        asked = SampleShape(SampleLayout((Span("image", patches // 4), Span("text", num_text))), encoded=encoded, predictions=1)
        seconds = self._pass_seconds(self.flops(asked, batch, "understanding"))
        seconds += self._decoding_seconds("text", batch, asked.layout.length, ANSWER_TOKENS - 1)
        # Memory for the longest that a stage has, time for what is asked.
        longest = max(num_text + ANSWER_TOKENS, config.data.answer_tokens)
        working = answering_bytes(config, size, longest, batch, self.b)["understanding"]
        read = self.numbers[None] + self.numbers["understanding"]
        by_pool: dict[Pool, PhaseEstimate] = {
            "understanding": PhaseEstimate(self.b * read, working, seconds * ceil(questions / batch))
        }
        return self._estimate(batch, by_pool, CONTEXT_BYTES, False, 0, read)

    def _estimate(
        self, batch: int, by_pool: dict[Pool, PhaseEstimate], beside: int, phases: bool, parked: int, read: int
    ) -> InferenceEstimate:
        """`beside`: bytes on the device besides weights and work; `read`: numbers that are loaded."""
        device = beside + max(phase.weights + sum(phase.working.values()) for phase in by_pool.values())
        host = parked + (FP32 + self.b) * self.largest
        # Averages are float32 in the checkpoint; all of them are checked once, whatever is loaded then.
        loading = FP32 * (sum(self.numbers.values()) + read) / READ_BYTES
        hours = (loading + sum(phase.seconds for phase in by_pool.values())) / 3600
        return InferenceEstimate(device, host, phases, hours, device <= self.gpu.memory, batch, by_pool, beside, loading)

    # Work

    def flops(self, shape: SampleShape, rows: int, kind: str = GENERATION) -> int:
        """Of one pass over `rows` such samples, counted as training's forward pass is, without what only training has."""
        work = Workload({kind: float(rows)}, {kind: (shape,)}, ranks=1)
        costs = step_flops(self.config, self.config.stages[-1], self.parameters, work)
        return sum(cost.forward for name, cost in costs.items() if name not in TRAINING_ALONE)

    def denoising_flops(self, tokens: Tokens, rows: int) -> int:
        """Of one step of the flow: what pixels add to the text and representation before them."""
        before = _drawn(tokens.text, tokens.representation)
        # The time is embedded in every step, and in the count for any sample.
        times = sum(2 * self.parameters.parts[name].matmul for name in ("time_embedding", "time_modulation") if name in
                    self.parameters.parts)  # fmt: skip
        whole = _drawn(tokens.text, tokens.representation, tokens.pixel)
        return self.flops(whole, rows) - self.flops(before, rows) + rows * times

    def _matrix_seconds(self, flops: float) -> float:
        return flops / (self.gpu.flops * DEFAULT_MFU)

    def _pass_seconds(self, flops: float) -> float:
        """Of one pass over many tokens."""
        return max(self._matrix_seconds(flops), self.config.model.decoder.num_layers * LAUNCH_SECONDS)

    def _decoding_seconds(self, kind: SpanKind, rows: int, before: int, steps: int) -> float:
        """Of tokens one by one, each after all before it: by the slowest of reading, computing and launching."""
        flops = 2 * rows * self.parameters.active[kind]
        read = self.b * self.numbers_read(kind, rows)
        # Attention reads the caches; a token is written where there is room for it.
        read += rows * (before + steps / 2) * kv_bytes(self.config.model.decoder, self.b)
        step = max(read / (self.gpu.bandwidth * BANDWIDTH_SHARE), self._pass_seconds(flops))
        return steps * step

    def numbers_read(self, kind: SpanKind, rows: int) -> float:
        """Parameters that a step of `rows` tokens reads: of a pool's experts those that any token chose, of choices that are even
        and independent (assumed)."""
        decoder, pool = self.config.model.decoder, self.parameters.parts[f"pool_{POOL_OF[kind]}"]
        chosen = 1.0
        if decoder.num_experts:
            chosen = 1 - (1 - decoder.num_active_experts / decoder.num_experts) ** rows
        return self.parameters.active[kind] - pool.active + pool.total * chosen


def _drawn(text: int, representation: int = 0, pixel: int = 0) -> SampleShape:
    """A sample to draw, up to some token."""
    lengths: tuple[tuple[SpanKind, int], ...] = (("text", text), ("representation", representation), ("pixel", pixel))
    return SampleShape(SampleLayout(tuple(Span(kind, length) for kind, length in lengths if length)))
