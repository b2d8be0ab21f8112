"""Schedule, parameter groups, clipping and master weights."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rf_repro.config.training_schema import MixtureConfig, OptimConfig, StageConfig
from rf_repro.model.initialise import is_generation
from rf_repro.model.rf_model import RFModel
from rf_repro.train.optim import MasterOptimizer, rate_factor
from tests.model.small import VOCAB, largest_difference, small_config, small_model

STAGE = StageConfig(
    name="joint", steps=100, learning_rate=1e-2, warmup_steps=10, encoder_lr_multiplier=0.25, mixture=MixtureConfig()
)
FP32 = torch.float32
OPTIM = OptimConfig(
    betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1, grad_clip=1e9,
    generation_lr_multiplier=4.0,
)  # fmt: skip


def test_rate_rises_linearly_then_stays() -> None:
    assert [rate_factor(step, STAGE) for step in (1, 5, 10, 11, 100)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert rate_factor(1, replace(STAGE, warmup_steps=0)) == 1


def test_rate_falls_linearly_over_the_last_share() -> None:
    stage = replace(STAGE, decay_fraction=0.4)
    assert [rate_factor(step, stage) for step in (60, 61, 81, 100)] == pytest.approx([1, 1, 0.5, 1 / 40])
    whole = replace(STAGE, decay_fraction=1.0)  # warm-up and decay overlap
    assert rate_factor(5, whole) == pytest.approx(0.5 * 96 / 100)


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    return dict(small_model(seed=seed).named_parameters())


def gradients(of: dict[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.01 * torch.randn(parameter.shape, generator=generator) for name, parameter in of.items()}


def give(to: dict[str, nn.Parameter], grads: dict[str, Tensor]) -> None:
    for name, parameter in to.items():
        parameter.grad = grads[name].to(parameter.dtype).clone()


def multiplier(name: str) -> float:
    if name.startswith("encoder."):
        return 0.25
    return 4.0 if is_generation(name) else 1.0


def test_fp32_is_torch_adamw_with_each_part_at_its_rate() -> None:
    own, reference = parameters(), parameters()
    optimizer = MasterOptimizer(own, OPTIM, STAGE, FP32)
    oracle = torch.optim.AdamW(
        [{"params": [parameter], "lr": 1e-2 * multiplier(name), "name": name} for name, parameter in reference.items()],
        betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1,
    )  # fmt: skip
    assert {multiplier(name) for name in own} == {0.25, 1.0, 4.0}
    for step in range(1, 13):
        grads = gradients(own, step)
        give(own, grads)
        give(reference, grads)
        norm = optimizer.step(step)
        assert norm == pytest.approx(float(torch.cat([g.flatten() for g in grads.values()]).norm()), rel=1e-5)
        for group in oracle.param_groups:
            group["lr"] = 1e-2 * multiplier(group["name"]) * min(1.0, step / 10)
        oracle.step()
    assert optimizer.learning_rate == pytest.approx(1e-2 * multiplier(next(iter(own))))
    for name, parameter in own.items():
        assert largest_difference(parameter.detach(), reference[name].detach()) < 2e-6, name


def test_gradients_are_clipped_by_their_joint_norm() -> None:
    own, reference = parameters(), parameters()
    optim = replace(OPTIM, grad_clip=0.5, eps=1.0)  # with a large eps AdamW feels the gradient's scale
    grads = gradients(own, 0)
    norm = float(torch.cat([g.flatten() for g in grads.values()]).norm())
    assert norm > 1
    give(own, grads)
    give(reference, {name: 0.5 / norm * grad for name, grad in grads.items()})
    assert MasterOptimizer(own, optim, STAGE, FP32).step(1) == pytest.approx(norm, rel=1e-5)  # reported before clipping
    MasterOptimizer(reference, replace(optim, grad_clip=1e9), STAGE, FP32).step(1)
    for name, parameter in own.items():
        assert largest_difference(parameter.detach(), reference[name].detach()) < 1e-7, name


def test_muon_has_the_block_matrices_and_adamw_the_rest() -> None:
    own = dict(RFModel(small_config(), VOCAB).named_parameters())
    optimizer = MasterOptimizer(own, OPTIM, replace(STAGE, optimizer="muon", muon_learning_rate=0.02), FP32)
    adamw, muon = optimizer.optimizers
    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(muon, torch.optim.Muon)
    names = {id(parameter): name for name, parameter in own.items()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    expected = {
        f"decoder.blocks.{layer}.{part}.weight"
        for layer in range(2)
        for part in ["attention.qkv", "attention.out"]
        + [f"pools.{pool}.{side}" for pool in ("understanding", "representation", "pixel") for side in ("gate_up", "down")]
    } | {f"encoder.blocks.0.{part}.weight" for part in ("qkv", "out", "ffn.0", "ffn.2")}
    expected |= {f"encoder.blocks.0.{part}.weight" for part in ("qkv", "out", "ffn.0", "ffn.2")}
    assert by_muon == expected
    assert sorted(by_adamw) == sorted(set(own) - expected)
    rates = {names[id(p)]: group["lr"] for group in muon.param_groups for p in group["params"]}
    assert rates["decoder.blocks.0.attention.qkv.weight"] == pytest.approx(0.02)
    assert rates["decoder.blocks.0.pools.pixel.down.weight"] == pytest.approx(0.08)
    assert rates["encoder.blocks.0.qkv.weight"] == pytest.approx(0.005)
    assert rates["encoder.blocks.0.qkv.weight"] == pytest.approx(0.005)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_bf16_weights_are_the_rounded_masters_after_every_step(kind: str) -> None:
    model = small_model()
    own = dict(model.named_parameters())
    exact = {name: parameter.detach().clone() for name, parameter in own.items()}
    stage = replace(STAGE, optimizer=kind, warmup_steps=0, learning_rate=1e-4, muon_learning_rate=1e-4)  # type: ignore[arg-type]
    optimizer = MasterOptimizer(own, OPTIM, stage, torch.bfloat16)
    model.to(torch.bfloat16)
    for name, master in optimizer.masters.items():
        assert master.dtype == torch.float32
        assert torch.equal(master, exact[name])  # taken before the cast: nothing is lost
    for step in range(1, 6):
        grads = gradients(own, step)
        give(own, grads)
        optimizer.step(step)
        for name, parameter in own.items():
            assert parameter.dtype == torch.bfloat16
            assert parameter.grad is None
            assert torch.equal(parameter, optimizer.masters[name].to(torch.bfloat16)), name
    moved = [name for name in own if not torch.equal(optimizer.masters[name], exact[name])]
    assert moved == list(own)
    # Steps below bf16's resolution add up in the masters.
    assert any(not torch.equal(optimizer.masters[name], own[name].float()) for name in own)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    own = parameters()
    optimizer = MasterOptimizer(own, OPTIM, STAGE, FP32)
    give(own, gradients(own, 0))
    own["connector.0.weight"].grad = None
    before = own["connector.0.weight"].detach().clone()
    optimizer.step(1)
    assert torch.equal(own["connector.0.weight"], before)


def test_a_gradient_that_is_not_finite_steps_nothing() -> None:
    own = parameters()
    optimizer = MasterOptimizer(own, OPTIM, STAGE, FP32)
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    grads = gradients(own, 0)
    grads["connector.0.weight"][0, 0] = float("nan")
    give(own, grads)
    assert math.isnan(optimizer.step(1))
    assert all(torch.equal(parameter, before[name]) for name, parameter in own.items())
