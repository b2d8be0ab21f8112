"""Pixel-space flow matching: x-prediction under a velocity loss (paper Sec. 3.2, Eq. 1-2; after JiT, arXiv 2511.13720).

t = 1 is data: z_t = t x + (1 - t) eps. The model predicts x; both velocities divide by max(1 - t, 0.05), so a perfect x
has zero loss. Everything is float32.
"""

import torch
from torch import Tensor

from rf_repro.config.training_schema import ObjectiveConfig


def sample_times(count: int, objective: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """Times in (0, 1), float32 [count]: t = sigmoid(N(mean, std)), optionally one in each of `count` equal-probability bins."""
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    if objective.time_stratified:
        uniform = (torch.randperm(count, generator=generator) + uniform) / count
    normal = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4))
    return torch.sigmoid(normal * objective.time_std + objective.time_mean).float()


def interpolate(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t = t x + (1 - t) eps (Eq. 1). clean, noise [B, P, C]; t [B]."""
    t = t[:, None, None]
    return t * clean + (1 - t) * noise


def velocity(clean: Tensor, noisy: Tensor, t: Tensor, min_one_minus_t: float) -> Tensor:
    """(x - z_t) / max(1 - t, floor): equal to x - eps wherever the floor does not act (Eq. 2)."""
    return (clean - noisy) / (1 - t).clamp(min=min_one_minus_t)[:, None, None]


def velocity_loss(predicted: Tensor, clean: Tensor, noisy: Tensor, t: Tensor, min_one_minus_t: float) -> tuple[Tensor, Tensor]:
    """Squared velocity error as (sum, count) over all elements (Eq. 2)."""
    error = velocity(predicted, noisy, t, min_one_minus_t) - velocity(clean, noisy, t, min_one_minus_t)
    return error.square().sum(), torch.tensor(error.numel())
