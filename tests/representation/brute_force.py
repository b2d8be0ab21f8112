"""Algorithm 1 and Sinkhorn as written, in float64 over the whole matrix."""

import math

import numpy as np
import torch
from torch import Tensor

from rf_repro.representation.assignment import Scores
from rf_repro.representation.vq import OnlineVQ


def brute_force(vq: OnlineVQ, features_ND: Tensor) -> Tensor:
    """Float64 [N, K] whose argmax over codes is the assignment: logarithms of the last normalisation over the batch."""
    z_ND = features_ND.double() - vq.mean.double()
    z_ND = z_ND / z_ND.norm(dim=1, keepdim=True)
    scores_NK = z_ND @ vq.prototypes.double().T / vq.config.temperature
    if vq.config.balance == "algorithm1":
        return scores_NK.softmax(1).log_softmax(0)
    for _ in range(vq.config.sinkhorn_iterations):
        scores_NK = scores_NK.log_softmax(1).log_softmax(0)
    return scores_NK


def wrong(codes_N: Tensor, exact_NK: Tensor, tolerance: float = 3e-6) -> int:
    """Codes that are not the best, ties aside: by more than the tolerance, relative to the spread of the row's values where
    that is below one (probabilities), or to their size."""
    best_N = exact_NK.amax(1)
    behind_N = best_N - exact_NK.gather(1, codes_N[:, None])[:, 0]
    scale_N = torch.minimum(best_N - exact_NK.amin(1), torch.ones(())).clamp(min=1e-300)
    return int((behind_N > tolerance * scale_N).sum())


def of(matrix: Tensor) -> Scores:
    """A matrix that is there already."""
    return Scores(len(matrix), matrix.shape[1], matrix.device, lambda rows: matrix[rows].clone())


def sinkhorn_knopp(logits: np.ndarray, iterations: int) -> np.ndarray:
    """Rows, then columns, scaled to mass one, element by element in float64."""
    matrix = [[math.exp(value) for value in row] for row in logits.tolist()]
    for _ in range(iterations):
        for row in matrix:
            total = sum(row)
            row[:] = [value / total for value in row]
        for k in range(len(matrix[0])):
            total = sum(row[k] for row in matrix)
            for row in matrix:
                row[k] /= total
    return np.array(matrix)
