"""Bytes that sampling and answering are said to need beside the weights, against bytes that are alive while they work."""

import pytest
import torch
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig
from rf_repro.maths.layers import swiglu
from rf_repro.model import attention, mot
from rf_repro.model.experts import Experts
from rf_repro.model.space import PixelSpace
from rf_repro.sample.answer import generate
from rf_repro.sample.footprint import answering_bytes, sampling_bytes, tokens_of
from rf_repro.sample.phases import PhasedSampler
from rf_repro.sample.requests import Batch
from rf_repro.sample.sampler import Sampler
from tests.estimate.live_bytes import LiveBytes
from tests.model.small import TOKENS, VOCAB, small_config, small_model

EXPERTS = {"model__decoder__num_experts": 8, "model__decoder__num_active_experts": 2}


class Peaks:
    """Bytes that are alive above those held before, at the peak of each part of some work."""

    def __init__(self, held: list[Tensor]) -> None:
        self.live = LiveBytes(held)
        self.before, self.found, self._part = self.live.live, dict[str, int](), ""

    def begin(self, part: str) -> None:
        self.end()
        self._part, self.live.peak = part, self.live.live

    def end(self) -> None:
        if self._part:
            self.found[self._part] = self.live.peak - self.before


MEMORY = {
    "dense": {}, "experts": EXPERTS, "additive": {"model__decoder__time_conditioning": "additive"},
    "pixel": {"representation__kind": "none"}, "unguided": {"sampling__cfg_pixel": 1.0, "sampling__cfg_representation": 1.0},
}  # fmt: skip


def fused(q_BHSd: Tensor, *others: object, **settings: object) -> Tensor:
    """Of a fused kernel's size, as a GPU has it: nothing but its result, in the order of tokens."""
    return q_BHSd.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def rotated(x_THd: Tensor, *tables: Tensor) -> Tensor:
    """Of a compiled kernel's size."""
    return x_THd.clone()


def grouped(self: Experts, x_RD: Tensor, weights_R: Tensor, *others: object) -> Tensor:
    """What CUDA's grouped products keep: all experts' rows at once. One expert stands for all, as no value is looked at."""
    inner = swiglu(x_RD @ self.gate_up[0].T)
    return (inner * weights_R[:, None]) @ self.down[0].T


@pytest.fixture
def as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_EXPLICIT_TOKENS", 0)
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", fused)
    monkeypatch.setattr("torch.nn.attention.bias.causal_lower_right", lambda *sizes: None)  # a tensor that LiveBytes cannot see
    monkeypatch.setattr(attention, "over_heads", lambda table, heads: table)
    attention.context_of.cache_clear()
    monkeypatch.setattr(mot, "apply_rope", rotated)
    monkeypatch.setattr(Experts, "forward", grouped)


def wide_config(name: str) -> ExperimentConfig:
    """So wide that what is small does not count."""
    return small_config(
        model__decoder__width=64, model__decoder__head_dim=16, model__decoder__ffn_width=96, **MEMORY[name]
    )  # fmt: skip


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize("name", MEMORY)
def test_sampling_needs_what_the_footprint_says(name: str, phases: bool, as_a_gpu: None) -> None:
    """Measured: 5% less to 5% more, which is what small tensors need at this size."""
    config, batch, size = wide_config(name), 16, (24, 24)
    model = small_model(config)
    sampler, text = Sampler(model, PixelSpace(4), config.sampling, TOKENS), torch.ones(batch, 30, dtype=torch.int64)
    estimated = sampling_bytes(config, size, tokens_of(config, size, 30), batch, 4, phases)
    if phases:  # on a CPU a batch waits where it is, and keeps its other branch with it
        before = "representation" if "representation" in estimated else "understanding"
        estimated["pixel"]["waiting"] = (config.sampling.cfg_pixel != 1) * estimated[before]["kv_caches"]
        if before == "representation":
            estimated[before]["waiting"] = estimated["understanding"]["kv_caches"]
    peaks = Peaks([*model.parameters(), text])
    with peaks.live:
        if phases:
            list(PhasedSampler(sampler, peaks.begin).sample_all([Batch(text, range(batch))], size))
        else:
            peaks.begin("all")
            sampler.sample(text, range(batch), size=size)
    peaks.end()
    sums = {str(pool): sum(parts.values()) for pool, parts in estimated.items()}
    if not phases:
        sums = {"all": max(sums.values())}
    assert peaks.found.keys() == sums.keys()
    for part, most in sums.items():
        assert 0.93 < peaks.found[part] / most < 1.12, part


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_answering_needs_what_the_footprint_says(name: str, as_a_gpu: None) -> None:
    config, batch, size = wide_config(name), 16, (24, 24)
    model = small_model(config)
    prompt = [torch.zeros(batch, 3, *size), torch.ones(batch, 60, dtype=torch.int64)]
    peaks = Peaks([*model.parameters(), prompt[1]])
    with peaks.live:
        peaks.begin("all")
        generate(model, prompt, eos_id=VOCAB, max_new_tokens=4)
    peaks.end()
    most = sum(answering_bytes(config, size, 64, batch, 4)["understanding"].values())
    assert 0.93 < peaks.found["all"] / most < 1.12
