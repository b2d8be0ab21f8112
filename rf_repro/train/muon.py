"""Muon in the arithmetic of the run: torch's own orthogonalises in bf16, which most CPUs emulate."""

from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, whose Newton-Schulz iterations are computed in `dtype`: in bf16 it is torch's own to the bit.

    Args:
        params: groups of matrices, with their rates.
        dtype: bfloat16 or float32.
    """

    def __init__(self, params: list[dict[str, Any]], weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(params, weight_decay=weight_decay)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, with Nesterov momentum and decoupled weight decay, at a rate that grows with sqrt(rows / columns) above 1."""
        if self.dtype == torch.bfloat16:
            return super().step(closure)
        assert closure is None  # nobody here has one
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(state["momentum_buffer"], group["momentum"])
                update = orthogonalise(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
        return None


def orthogonalise(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """X <- a X + (b A + c A^2) X with A = X X^T, from X = G / |G|, in the matrix's own dtype: singular values go near 1.

    Args:
        matrix: G, [rows, columns].
    """
    a, b, c = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
