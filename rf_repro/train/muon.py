"""Muon (Jordan et al., 2024): momentum whose singular values are all made about 1, for the matrices of blocks.

G matrices of one shape, m rows and n columns of the smaller way round (m <= n).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# The odd polynomials a x + b x^3 + c x^5 that one after another bring [LOWEST, 1] closest to 1, to [.67, 1.33]; what is smaller
# grows 352 times. After Polar Express (arXiv 2505.16932, Theorem 3.1), whose margin for rounding they have: each but the first
# expects values MARGIN times as large as there should be. Five of Jordan's one polynomial end in [.68, 1.13], and 485.
COEFFICIENTS = (
    (8.42679, -24.93613, 18.49249),
    (4.07264, -2.97083, 0.54738),
    (3.68787, -2.70520, 0.51808),
    (2.78059, -2.03938, 0.44575),
)
LOWEST, MARGIN = 0.002, 1.01
STACKED_NUMBERS = 2**22  # of the matrices that are orthogonalised together


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with four Newton-Schulz iterations of their own coefficients, matrices of one shape stacked, computed
    in the arithmetic of the run: torch's own is bf16, which most CPUs emulate.

    Args:
        params: groups of matrices, with their rates.
        dtype: bfloat16 or float32.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        weight_decay: float,
        dtype: torch.dtype,
        coefficients: tuple[tuple[float, float, float], ...] = COEFFICIENTS,
    ) -> None:
        super().__init__(params, weight_decay=weight_decay)
        self.dtype, self.coefficients = dtype, coefficients

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, with Nesterov momentum and decoupled weight decay, at a rate that grows with sqrt(rows / columns) above 1."""
        assert closure is None  # nobody here has one
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            gradients = [matrix.grad for matrix in matrices]
            for matrix in matrices:
                if "momentum_buffer" not in self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for matrix, update in zip(matrices, self._orthogonalised(updates, group["eps"]), strict=True):
                matrix.add_(update, alpha=-group["lr"] * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5)
        return None

    def _orthogonalised(self, updates: Sequence[Tensor], eps: float) -> list[Tensor]:
        stacks: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        counts: dict[tuple[int, int], int] = defaultdict(int)
        for index, update in enumerate(updates):
            m, n = sorted(update.shape)
            counts[m, n] += 1
            stacks[m, n, counts[m, n] * m * n // STACKED_NUMBERS].append(index)
        found = list(updates)
        for indices in stacks.values():
            flipped = [updates[index].shape[0] > updates[index].shape[1] for index in indices]
            stack_Gmn = torch.stack([updates[i].T if flip else updates[i] for i, flip in zip(indices, flipped, strict=True)])
            for i, flip, one in zip(indices, flipped, orthogonalise(stack_Gmn, self.dtype, self.coefficients, eps), strict=True):
                found[i] = one.T if flip else one
        return found


def orthogonalise(
    stack_Gmn: Tensor, dtype: torch.dtype, coefficients: tuple[tuple[float, float, float], ...], eps: float
) -> Tensor:
    """X <- a X + (b A + c A^2) X with A = X X^T, from X = G / |G|: singular values go near 1.

    Args:
        stack_Gmn: matrices, m <= n.
        dtype: what products are computed in, and the result's.
        coefficients: (a, b, c) of each iteration.
    """
    norms_G = torch.linalg.vector_norm(stack_Gmn, dim=(1, 2), keepdim=True)
    x = (stack_Gmn / norms_G.clamp(min=eps)).to(dtype)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
