"""Time steps of the flow, and guidance."""

import math

import torch
from torch import Tensor


def timestep_shift(num_patches: int, base_patches: int) -> float:
    """alpha = sqrt(P / base): more noise-side steps for larger images (SD3's dynamic shift; `assumed` base)."""
    return math.sqrt(num_patches / base_patches)


def shifted_times(steps: int, alpha: float) -> Tensor:
    """Times from 0 (noise) to 1 (data), float64 [steps + 1].

    SD3 shifts the noise level s = 1 - t as s' = alpha s / (1 + (alpha - 1) s); alpha = 1 is uniform.
    """
    noise_level = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return 1 - alpha * noise_level / (1 + (alpha - 1) * noise_level)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional); scale 1 is no guidance."""
    return torch.lerp(unconditional, conditional, scale)


def sample_top_k(logits: Tensor, top_k: int, uniform: Tensor) -> Tensor:
    """Draws from the k most likely codes by inverse transform, so that one uniform number decides one draw.

    Args:
        logits: float32 [B, K].
        uniform: float32 [B] in [0, 1).

    Returns:
        int64 [B].
    """
    top, codes = logits.topk(min(top_k, logits.shape[-1]), -1)
    cumulative = top.softmax(-1).cumsum(-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1).clamp(max=codes.shape[-1] - 1)
    return codes.gather(1, chosen[:, None])[:, 0]
