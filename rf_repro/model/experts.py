"""The feed-forward pools of the Mixture-of-Transformers: one dense Qwen3 MLP, or a Qwen3 mixture of experts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.schema import DecoderConfig


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x). [T, width] -> [T, width]. Gate and up are one matrix, gate first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class SparseFeedForward(nn.Module):
    """Top-k routed experts, weights renormalised over the chosen k (Qwen3-MoE). [T, width] -> [T, width]."""

    def __init__(self, width: int, inner: int, num_experts: int, num_active: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList([FeedForward(width, inner) for _ in range(num_experts)])
        self.num_active = num_active

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.router(x).float().softmax(-1)
        weights, chosen = probabilities.topk(self.num_active, -1)  # [T, k]
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows, slots = (chosen == index).nonzero(as_tuple=True)
            if rows.numel():
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slots, None])
        return out


def build_pool(config: DecoderConfig) -> nn.Module:
    """A pool of the configured kind, fresh."""
    if config.num_experts:
        return SparseFeedForward(config.width, config.ffn_width, config.num_experts, config.num_active_experts)
    return FeedForward(config.width, config.ffn_width)
