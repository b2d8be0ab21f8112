"""What sampling and answering are said to cost against the model on the meta device and PyTorch's counter of FLOPs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rf_repro.config.scales import get_scale, paper
from rf_repro.core.errors import UserError
from rf_repro.estimate import inference
from rf_repro.estimate.gpus import GPU, GPUS
from rf_repro.estimate.inference import _Costs, estimate_action
from rf_repro.estimate.memory import CONTEXT_BYTES
from rf_repro.estimate.parameters import count_by_pool, count_parameters, largest_tensor
from rf_repro.estimate.plan import find_grid
from rf_repro.model import attention
from rf_repro.model.layout import POOLS, Pool
from rf_repro.model.pools import owner
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.sample.footprint import tokens_of
from rf_repro.sample.sampler import Sampler
from tests.model.small import TOKENS, small_config, small_model

RF = find_grid("pixel_rf").variant("pixel_rf").config(paper())
H200 = GPUS["h200"]
EXPERTS = {"model__decoder__num_experts": 8, "model__decoder__num_active_experts": 2}


@pytest.mark.parametrize("scale", ["paper", "base", "tiny"])
@pytest.mark.parametrize("key", ["pixel_rf", "pixel", "vae_rf", "repa", "continuous", "vlm_only"])
def test_pools_are_those_of_the_model(key: str, scale: str) -> None:
    """`RFModel` whole, with the modules of transformers in its encoder, which the estimate does without."""
    pytest.importorskip("transformers")
    config = find_grid(key).variant(key).config(get_scale(scale))
    vocab = config.model.decoder.vocab_size or count_parameters(config).parts["text_head"].total // config.model.decoder.width
    with torch.device("meta"):
        model = RFModel(config, vocab)
    sizes: dict[Pool | None, int] = {}
    for name, parameter in model.named_parameters():
        sizes[owner(name)] = sizes.get(owner(name), 0) + parameter.numel()
    counted = count_by_pool(config)
    assert counted == sizes
    assert sum(counted.values()) == count_parameters(config).total
    assert largest_tensor(config) == max(parameter.numel() for parameter in model.parameters())


def test_a_pool_of_the_paper_s_model() -> None:
    """57 GB of experts each in bf16, 62.8 with attention, encoder and embeddings: what a question loads."""
    numbers = count_by_pool(RF)
    experts = 48 * (128 * 3 * 2048 * 768 + 2048 * 128)
    assert experts * 2 / 1e9 == pytest.approx(58.0, abs=0.1)
    assert numbers[None] == 48 * (2048 * 40 * 128 + 32 * 128 * 2048 + 2048 + 2 * 128)
    for pool in POOLS:
        assert experts < numbers[pool] < 1.06 * experts
    estimate = estimate_action(RF, "answer", H200, questions=1)
    assert estimate.by_pool["understanding"].weights == 2 * (numbers[None] + numbers["understanding"])
    assert estimate.fits
    assert not estimate.phases


# Whole or in phases


def test_a_model_goes_whole_where_it_fits_and_in_phases_where_it_does_not() -> None:
    whole_weights = 2 * count_parameters(RF).total
    phased = estimate_action(RF, "sample", H200, size=(1024, 1024), images=100)
    assert whole_weights > H200.memory
    assert phased.phases
    assert phased.fits
    assert phased.device_bytes < 80e9
    huge = replace(H200, memory=10**12)
    whole = estimate_action(RF, "sample", huge, size=(1024, 1024), images=100)
    assert not whole.phases
    assert whole.device_bytes > whole_weights
    assert {phase.weights for phase in whole.by_pool.values()} == {whole_weights}
    just = replace(H200, memory=whole.device_bytes)
    assert not estimate_action(RF, "sample", just, size=(1024, 1024), images=100).phases
    assert estimate_action(RF, "sample", replace(just, memory=just.memory - 1), size=(1024, 1024), images=100).phases
    assert not estimate_action(RF, "sample", GPUS["4090"], images=1).fits
    numbers = count_by_pool(RF)
    for pool, phase in phased.by_pool.items():
        assert phase.weights == 2 * (numbers[None] + numbers[pool])
    peaks = [phase.weights + sum(phase.working.values()) for phase in phased.by_pool.values()]
    assert phased.device_bytes == max(peaks) + CONTEXT_BYTES


def test_more_images_wait_on_the_host_up_to_a_bound_and_load_pools_again() -> None:
    few, more, many = (estimate_action(RF, "sample", H200, size=(1024, 1024), images=n) for n in (11, 22, 11_000))
    one = 48 * 2 * 4 * 128 * 2 * (512 + 1025)  # keys and values of a prompt of 512 tokens and its representation
    assert more.host_bytes - few.host_bytes == 11 * one
    assert many.host_bytes == inference.PARKED_AT_ONCE + (4 + 2) * largest_tensor(RF)
    groups = -(-11_000 * one // inference.PARKED_AT_ONCE)
    pools = sum(count for pool, count in count_by_pool(RF).items() if pool)
    assert many.loading_seconds - few.loading_seconds == pytest.approx((groups - 1) * 4 * pools / inference.READ_BYTES)
    assert more.seconds == pytest.approx(2 * few.seconds)
    for estimate in (few, many):
        assert estimate.hours == pytest.approx((estimate.seconds + estimate.loading_seconds) / 3600)


def test_a_run_that_draws_nothing_is_asked_alone() -> None:
    vlm = find_grid("vlm_only").variant("vlm_only").config(paper())
    with pytest.raises(UserError, match="a VLM-only run draws no images"):
        estimate_action(vlm, "sample", H200, images=1)
    assert estimate_action(vlm, "answer", H200, questions=8).hours > 0
    with pytest.raises(UserError, match="multiples of 32 pixels"):
        estimate_action(RF, "sample", H200, size=(100, 100), images=1)


# Work


@pytest.mark.parametrize(
    "changes",
    [{}, EXPERTS, {"model__decoder__time_conditioning": "additive"}, {"representation__kind": "none"},
     {"representation__kind": "repa", "representation__alignment__layer": 1}],
    ids=["adaln", "experts", "additive", "pixel", "repa"],
)  # fmt: skip
@torch.no_grad()
def test_a_step_of_the_flow_has_the_flops_that_pytorch_counts(changes: dict[str, Any]) -> None:
    config = small_config(**changes)
    model, tokens = small_model(config), tokens_of(config, (24, 24), 5)
    sampler = Sampler(model, PixelSpace(4), config.sampling, TOKENS)
    values = None if model.representation is None else model.representation.zeros(3, tokens.representation - 1)
    caches = sampler._prefix(torch.ones(3, 5, dtype=torch.int64), values, None)
    layout = model.generation_layout(5)
    layout = replace(layout, num_cached=layout.length - tokens.pixel)
    with FlopCounterMode(display=False) as counter:
        model.denoise(caches, layout, torch.zeros(3, tokens.pixel, 48), torch.zeros(3))
    assert _Costs(config, H200).denoising_flops(tokens, 3) == counter.get_total_flops()


def test_experts_that_a_step_reads_are_those_that_some_token_chose() -> None:
    """Against draws of even choices."""
    config = small_config(**EXPERTS)
    costs, parts = _Costs(config, H200), count_parameters(config).parts["pool_representation"]
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 3, 10, 300):
        drawn = [torch.rand(rows, 8, generator=generator).topk(2).indices.unique() for _ in range(400)]
        share = sum(map(len, drawn)) / (8 * 400)
        read = costs.numbers_read("representation", rows) - costs.parameters.active["representation"] + parts.active
        assert read / parts.total == pytest.approx(share, abs=0.02)
    dense = _Costs(small_config(), H200)
    assert dense.numbers_read("text", 5) == dense.parameters.active["text"]


def test_tokens_one_by_one_are_bound_by_reading_by_python_or_by_computing() -> None:
    def seconds(gpu: GPU) -> float:
        return _Costs(RF, gpu)._decoding_seconds("representation", 24, 512, 1025)

    launching = 1025 * 48 * inference.LAUNCH_SECONDS
    assert seconds(replace(H200, bandwidth=10**15)) == pytest.approx(launching)
    slow = replace(H200, bandwidth=10**11)
    read = 2 * _Costs(RF, slow).numbers_read("representation", 24) + 24 * (512 + 1025 / 2) * 98_304
    assert seconds(slow) == pytest.approx(1025 * read / (1e11 * inference.BANDWIDTH_SHARE))
    weak = replace(H200, flops=1e10, bandwidth=10**15)
    computing = 1025 * 2 * 24 * count_parameters(RF).active["representation"]
    assert seconds(weak) == pytest.approx(computing / (1e10 * inference.DEFAULT_MFU))


class Operations(TorchDispatchMode):
    """Counts operations that launch a kernel: those that only look at a tensor in another way do not."""

    VIEWS = (
        "view", "t", "transpose", "slice", "split", "select", "expand", "unsqueeze", "permute", "detach", "alias", "chunk",
        "unbind", "_unsafe_view", "empty", "new_empty", "empty_like", "split_with_sizes", "as_strided", "new_zeros",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.__name__.split(".")[0] not in self.VIEWS
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_block_has_about_as_many_operations_as_its_launching_is_said_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """60, here 63; two experts in a loop, where CUDA has grouped products."""
    monkeypatch.setattr(attention, "MAX_EXPLICIT_TOKENS", 0)
    counts = []
    for layers in (2, 3):
        changes = {"model__decoder__num_experts": 2, "model__decoder__num_active_experts": 1}
        model = small_model(small_config(**changes, **({"model__decoder__num_layers": layers} if layers != 2 else {})))
        sampler = Sampler(model, PixelSpace(4), small_config().sampling, TOKENS)
        with Operations() as operations:
            sampler.read_text(torch.ones(3, 1, dtype=torch.int64))
        counts.append(operations.count)
    assert 50 <= counts[1] - counts[0] <= 70
