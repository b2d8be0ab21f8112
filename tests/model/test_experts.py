"""Mixtures of experts: against a sum over tokens and choices one by one, transformers' load-balancing loss, and each other."""

import math

import pytest
import torch
from torch import Tensor

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.model import experts
from rf_repro.model.experts import FeedForward, SparseFeedForward, build_pool, can_group, router_metrics
from tests.model.small import largest_difference

CONFIG = DecoderConfig(width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=24, num_experts=6,
                       num_active_experts=3)  # fmt: skip
TOLERANCE = 1e-5  # of outputs of order one, fp32


def make_pool(seed: int = 0, config: DecoderConfig = CONFIG) -> SparseFeedForward:
    torch.manual_seed(seed)
    pool = build_pool(config)
    assert isinstance(pool, SparseFeedForward)
    with torch.no_grad():
        pool.router.weight[4] = -0.6  # with positive inputs, an expert that nothing chooses
    return pool


def tokens(count: int, seed: int = 1, width: int = CONFIG.width) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).abs()


def brute_force(pool: SparseFeedForward, x: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token, choice by choice."""
    rows, num_experts, k = [], pool.router.out_features, pool.num_active
    chosen_count, mean = torch.zeros(num_experts), torch.zeros(num_experts)
    for row in x:
        probabilities = torch.softmax(pool.router.weight @ row, 0)
        mean = mean + probabilities / len(x)
        chosen = sorted(range(num_experts), key=lambda e: -float(probabilities[e].detach()))[:k]
        total = sum(probabilities[e] for e in chosen)
        out = torch.zeros_like(row)
        for e in chosen:
            chosen_count[e] += 1
            gate, up = (pool.experts.gate_up[e] @ row).chunk(2)
            out = out + probabilities[e] / total * (pool.experts.down[e] @ (gate * torch.sigmoid(gate) * up))
        rows.append(out)
    return torch.stack(rows), num_experts * (chosen_count / len(x) * mean).sum()


def gradients(pool: SparseFeedForward, x: Tensor, out: Tensor, balance: Tensor) -> list[Tensor]:
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)
    return list(torch.autograd.grad((out * direction).sum() + 0.3 * balance, [x, *pool.parameters()]))


def test_output_loss_and_gradients_equal_a_sum_token_by_token() -> None:
    pool, x = make_pool(), tokens(13).requires_grad_()
    out, balance = pool(x)
    expected, expected_balance = brute_force(pool, x)
    assert balance.dtype == torch.float32
    assert largest_difference(out, expected) < TOLERANCE
    assert float(balance) == pytest.approx(float(expected_balance), abs=1e-6)
    assert float(out.std()) > 0.05
    for ours, theirs in zip(gradients(pool, x, out, balance), gradients(pool, x, expected, expected_balance), strict=True):
        assert largest_difference(ours, theirs) < TOLERANCE
        assert bool(ours.any())


def test_balance_equals_that_of_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe")
    pool, x = make_pool(), tokens(50)
    theirs = modeling.load_balancing_loss_func((pool.router(x),), CONFIG.num_experts, CONFIG.num_active_experts)
    assert float(pool(x)[1]) == pytest.approx(float(theirs), rel=1e-6)
    assert float(theirs) > CONFIG.num_active_experts + 0.01  # uneven: k would be even


def test_output_and_gradients_equal_the_block_of_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe")
    configuration = pytest.importorskip("transformers").Qwen3MoeConfig(
        hidden_size=CONFIG.width, moe_intermediate_size=CONFIG.ffn_width, num_experts=CONFIG.num_experts,
        num_experts_per_tok=CONFIG.num_active_experts, norm_topk_prob=True, num_attention_heads=2, experts_implementation="eager",
    )  # fmt: skip
    pool, x = make_pool(), tokens(17).requires_grad_()
    theirs = modeling.Qwen3MoeSparseMoeBlock(configuration)
    theirs.load_state_dict(
        {"gate.weight": pool.router.weight, "experts.gate_up_proj": pool.experts.gate_up, "experts.down_proj": pool.experts.down}
    )
    out, expected = pool(x)[0], theirs(x[None])[0]
    assert largest_difference(out, expected) < TOLERANCE
    own = torch.autograd.grad(out.square().sum(), [x, pool.router.weight, pool.experts.gate_up, pool.experts.down])
    parameters = [theirs.gate.weight, theirs.experts.gate_up_proj, theirs.experts.down_proj]
    for ours, hers in zip(own, torch.autograd.grad(expected.square().sum(), [x, *parameters]), strict=True):
        assert largest_difference(ours, hers) < TOLERANCE


def test_even_routing_has_balance_k_and_entropy_log_of_the_experts() -> None:
    pool = make_pool()
    torch.nn.init.zeros_(pool.router.weight)
    assert float(pool(tokens(9))[1]) == pytest.approx(CONFIG.num_active_experts)
    assert float(pool.last_entropy) == pytest.approx(math.log(CONFIG.num_experts), rel=1e-6)


def test_no_tokens_give_balance_zero_and_zero_gradients_of_everything() -> None:
    pool, x = make_pool(), tokens(0).requires_grad_()
    out, balance = pool(x)
    assert out.shape == (0, CONFIG.width)
    assert float(balance) == 0
    (out.sum() + balance).backward()
    for name, parameter in pool.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    assert pool.last_counts.tolist() == [0] * CONFIG.num_experts
    assert router_metrics(torch.nn.ModuleDict({"pixel": pool})) == {}
    dense = FeedForward(8, 6)
    dense(torch.zeros(0, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in dense.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, 0.02)], ids=["fp32", "bf16"])
def test_the_grouped_product_equals_the_loop(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grouped branch with the CPU's grouped product, which takes every type."""
    pool, x = make_pool().to(dtype), tokens(40).to(dtype).requires_grad_()
    expected = pool(x)
    monkeypatch.setattr(experts, "can_group", lambda *_: True)
    assert not can_group(x, pool.experts.gate_up)
    found = pool(x)
    assert largest_difference(found[0], expected[0]) < tolerance
    assert largest_difference(found[1], expected[1]) == 0
    for ours, theirs in zip(gradients(pool, x, *found), gradients(pool, x, *expected), strict=True):
        scale = float(theirs.float().abs().max())
        assert largest_difference(ours / scale, theirs / scale) < tolerance


def test_router_metrics_follow_the_last_call() -> None:
    pools = torch.nn.ModuleDict({"understanding": make_pool(0), "pixel": make_pool(1)})
    model = torch.nn.ModuleList([torch.nn.ModuleDict({"pools": pools})])
    assert router_metrics(model) == {}  # nothing was run
    for seed in (5, 6):  # the second replaces the first
        pools["understanding"](tokens(30, seed))
    metrics = router_metrics(model)
    assert set(metrics) == {f"router/understanding/{name}" for name in ("max_load", "unused", "entropy")}
    probabilities = torch.softmax(pools["understanding"].router(tokens(30, 6)), -1)
    counts = probabilities.topk(CONFIG.num_active_experts, -1)[1].flatten().bincount(minlength=CONFIG.num_experts)
    assert pools["understanding"].last_counts.tolist() == counts.tolist()
    assert metrics["router/understanding/max_load"] == pytest.approx(float(counts.max()) / (30 * 3 / 6))
    assert metrics["router/understanding/unused"] == pytest.approx(float((counts == 0).float().mean()))
    assert metrics["router/understanding/unused"] > 0
    entropy = -(probabilities * probabilities.log()).sum(-1).mean()
    assert metrics["router/understanding/entropy"] == pytest.approx(float(entropy), rel=1e-5)


def test_statistics_stay_out_of_the_state() -> None:
    pool = make_pool()
    names = set(pool.state_dict())
    pool(tokens(3))
    assert set(pool.state_dict()) == names == {"router.weight", "experts.gate_up", "experts.down"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_grouped_product_equals_the_loop_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16, all three of the same weights; tokens that a near tie routes apart on the CPU are left out there."""
    config = DecoderConfig(width=256, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=128, num_experts=16,
                           num_active_experts=4)  # fmt: skip
    pool = make_pool(0, config).to(torch.bfloat16)
    x = tokens(200, width=256).to(torch.bfloat16)
    cuda = make_pool(0, config).to("cuda", torch.bfloat16)
    own = x.cuda().requires_grad_()
    assert can_group(own, cuda.experts.gate_up, cuda.experts.down)
    grouped = cuda(own)
    grouped_gradients = gradients(cuda, own, *grouped)
    counts = cuda.last_counts.tolist()
    monkeypatch.setattr(experts, "can_group", lambda *_: False)
    looped = cuda(own)
    assert cuda.last_counts.tolist() == counts
    assert counts[4] == 0  # an expert without tokens is among them
    assert largest_difference(grouped[0], looped[0]) < 0.02
    for ours, theirs in zip(grouped_gradients, gradients(cuda, own, *looped), strict=True):
        scale = float(theirs.float().abs().max())
        assert largest_difference(ours / scale, theirs / scale) < 0.02
    routes, cpu_routes = choices(cuda, own), choices(pool, x)
    same = [row for row in range(len(x)) if routes[row] == cpu_routes[row]]  # near ties may round apart
    assert len(same) > 0.9 * len(x)
    assert largest_difference(pool(x)[0][same], grouped[0].cpu()[same]) < 0.02


def choices(pool: SparseFeedForward, x: Tensor) -> list[list[int]]:
    return pool.router(x).float().topk(pool.num_active, -1)[1].sort(-1)[0].tolist()
