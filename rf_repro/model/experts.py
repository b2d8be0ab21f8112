"""The feed-forward pools of the Mixture-of-Transformers: one dense Qwen3 MLP, or a Qwen3 mixture of experts.

T tokens of a pool, D width, f inner width of one expert, E experts, k active ones a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.maths.layers import swiglu


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x). [T, width] -> [T, width]. Gate and up are one matrix, gate first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))


class Experts(nn.Module):
    """E SwiGLU feed-forwards as two tensors, laid out as in transformers 5 (`mlp.experts.gate_up_proj`, `down_proj`)."""

    def __init__(self, width: int, inner: int, num_experts: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * inner, width))  # gate first
        self.down = nn.Parameter(torch.empty(num_experts, width, inner))
        for weight in (self.gate_up, self.down):  # as nn.Linear has it; a model's values come from `initialise`
            nn.init.uniform_(weight, -(weight.shape[2] ** -0.5), weight.shape[2] ** -0.5)

    def forward(self, x_RD: Tensor, weights_R: Tensor, ends_E: Tensor, grouped: bool) -> Tensor:
        """
        Args:
            x_RD: rows sorted by expert.
            weights_R: what each row's output is multiplied by; applied before `down`, which is linear and wider than f.
            ends_E: int32, the row after each expert's last.
            grouped: one kernel for all experts, without waiting for the device; else a matrix product an expert.
        """
        if grouped:
            inner = swiglu(F.grouped_mm(x_RD, self.gate_up.transpose(1, 2), offs=ends_E))
            return F.grouped_mm(inner * weights_R[:, None], self.down.transpose(1, 2), offs=ends_E)
        outputs: list[Tensor] = []
        start = 0
        # `unbind` has one backward for all: indexing an expert would fill a gradient of all experts for each.
        for gate_up, down, stop in zip(self.gate_up.unbind(), self.down.unbind(), ends_E.tolist(), strict=True):
            if stop > start or not outputs:  # the first runs even on no rows: gradients are then zero, never absent
                inner = swiglu(F.linear(x_RD[start:stop], gate_up))
                outputs.append(F.linear(inner * weights_R[start:stop, None], down))
            start = stop
        return torch.cat(outputs)


class SparseFeedForward(nn.Module):
    """Top-k routed experts, weights renormalised over the chosen k (Qwen3-MoE with norm_topk_prob).

    `last_counts` (int64 [E]: choices of each expert) and `last_entropy` (float32 scalar, nats: of the router's distribution,
    mean over tokens) describe the last call; they are replaced, not summed, so that a forward pass computed again for
    activation checkpointing counts once.
    """

    def __init__(self, width: int, inner: int, num_experts: int, num_active: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = Experts(width, inner, num_experts)
        self.num_active = num_active
        self.last_counts: Tensor | None = None
        self.last_entropy: Tensor | None = None

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] -> out [T, D], and the load-balancing loss, float32: E * sum_e f_e P_e, with f_e the choices of expert e per
        token (they sum to k) and P_e its mean probability; k where all is even, 0 for no tokens. Source: Switch Transformer,
        Eq. 4-6; `load_balancing_loss_func` of transformers' Qwen3-MoE, of one layer."""
        count, num_experts = x_TD.shape[0], self.router.out_features
        probabilities_TE = self.router(x_TD).softmax(-1, dtype=torch.float32)
        weights_Tk, chosen_Tk = probabilities_TE.topk(self.num_active, -1)
        weights_Tk = (weights_Tk / weights_Tk.sum(-1, keepdim=True)).to(x_TD.dtype)

        sorted_R, order_R = chosen_Tk.flatten().sort(stable=True)  # R = T*k choices
        experts_E = torch.arange(num_experts, device=x_TD.device)
        ends_E = torch.searchsorted(sorted_R, experts_E, right=True, out_int32=True)
        counts_E = ends_E.long().diff(prepend=ends_E.new_zeros(1, dtype=torch.int64))
        back_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=x_TD.device))

        rows_RD = _Spread.apply(x_TD, order_R, back_R, self.num_active)
        weights_R = weights_Tk.flatten()[order_R]
        grouped = can_group(x_TD, self.experts.gate_up, self.experts.down)
        out_TD = _Collect.apply(self.experts(rows_RD, weights_R, ends_E, grouped), order_R, back_R, self.num_active)

        share_E, mean_E = counts_E / max(count, 1), probabilities_TE.sum(0) / max(count, 1)
        self.last_counts = counts_E
        self.last_entropy = torch.special.entr(probabilities_TE.detach()).sum() / max(count, 1)
        return out_TD, num_experts * (share_E * mean_E).sum()


def can_group(x: Tensor, *weights: Tensor) -> bool:
    """Whether CUDA's grouped matrix product takes these: bf16, rows of whole 16 bytes, compute capability 8.0; some rows."""
    return (
        x.is_cuda
        and x.shape[0] > 0
        and all(tensor.dtype == torch.bfloat16 and tensor.shape[-1] % 8 == 0 for tensor in (x, *weights))
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )


class _Spread(torch.autograd.Function):
    """[T, D] -> [T*k, D], every token to the rows of its k choices. Its gradient is gathered and summed over k, where that of
    indexing would be added up by atomics, in an order that changes from run to run."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, back: Tensor, num: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(back)
        ctx.num = num
        return x.index_select(0, order // num)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (back,) = ctx.saved_tensors
        return _sum_choices(grad, back, ctx.num), None, None, None


class _Collect(torch.autograd.Function):
    """[T*k, D] -> [T, D], the sum of each token's k rows: the transpose of `_Spread`."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, back: Tensor, num: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(order)
        ctx.num = num
        return _sum_choices(rows, back, num)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order // ctx.num), None, None, None


def _sum_choices(rows: Tensor, back: Tensor, num: int) -> Tensor:
    return rows.index_select(0, back).view(len(back) // num, num, rows.shape[1]).sum(1)


def build_pool(config: DecoderConfig) -> nn.Module:
    """A pool of the configured kind, fresh."""
    if config.num_experts:
        return SparseFeedForward(config.width, config.ffn_width, config.num_experts, config.num_active_experts)
    return FeedForward(config.width, config.ffn_width)


@torch.no_grad()
def router_metrics(model: nn.Module) -> dict[str, float]:
    """How evenly the experts of each pool were used in the last forward pass, this rank's tokens.

    Returns:
        For each pool (the last part of its module's name) that had tokens: `router/<pool>/max_load`, the most used expert's
        tokens over the mean, of the layer where that is largest; `router/<pool>/unused`, the share of experts without a
        token, and `router/<pool>/entropy`, nats of the router's distribution, both means over layers.
    """
    pools: dict[str, list[SparseFeedForward]] = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseFeedForward) and module.last_counts is not None:
            pools.setdefault(name.rpartition(".")[2], []).append(module)
    metrics: dict[str, float] = {}
    for pool, layers in pools.items():
        counts_LE = torch.stack([layer.last_counts for layer in layers if layer.last_counts is not None]).float()
        entropy_L = torch.stack([layer.last_entropy for layer in layers if layer.last_entropy is not None])
        load = (counts_LE.amax(1) / counts_LE.mean(1)).max()  # NaN where the pool had no tokens
        values = torch.stack([load, (counts_LE == 0).float().mean(), entropy_L.mean(), counts_LE.sum()]).tolist()
        if values[3]:
            metrics |= dict(zip([f"router/{pool}/{name}" for name in ("max_load", "unused", "entropy")], values[:3], strict=True))
    return metrics
