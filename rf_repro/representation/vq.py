"""Online vector quantisation of encoder features (paper Sec. 3.1, Algorithm 1).

N features of a batch, K prototypes, D feature width. Everything is float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.schema import RepresentationConfig

CENTER_DECAY = 0.99


class OnlineVQ(nn.Module):
    """A codebook of K unit prototypes that follows the features it quantises, without gradients.

    Two slips of the published pseudocode are mended: a prototype without assignments keeps its value (it would be
    divided by zero), and the sums run over D columns (the scatter index is expanded to K there).
    """

    prototypes: Tensor
    mean: Tensor
    num_updates: Tensor

    def __init__(self, config: RepresentationConfig, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("prototypes", torch.zeros(config.codebook_size, feature_dim))
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def initialise(self, features_ND: Tensor, generator: torch.Generator) -> None:
        """Prototypes become random features (with repetition only if N < K); the centring mean becomes theirs."""
        features_ND = features_ND.float()
        if self.config.center:
            self.mean.copy_(features_ND.mean(0))
        K, N = self.prototypes.shape[0], features_ND.shape[0]
        chosen = torch.cat([torch.randperm(N, generator=generator) for _ in range(-(-K // N))])[:K]
        self.prototypes.copy_(self.normalise(features_ND)[chosen.to(features_ND.device)])

    def normalise(self, features_ND: Tensor) -> Tensor:
        """Z: centred (where configured) and of unit length."""
        return F.normalize(features_ND.float() - self.mean, dim=-1)

    @torch.no_grad()
    def nearest(self, features_ND: Tensor) -> Tensor:
        """The closest prototype of each feature, int64 [N], whatever else is in the batch."""
        return (self.normalise(features_ND) @ self.prototypes.T).argmax(-1)

    @torch.no_grad()
    def assign(self, features_ND: Tensor) -> Tensor:
        """Balanced assignment of a global batch, int64 [N]. Paper: Algorithm 1, with `balance` as configured."""
        scores_NK = self.normalise(features_ND) @ self.prototypes.T / self.config.temperature
        if self.config.balance == "sinkhorn":
            return sinkhorn_assign(scores_NK, self.config.sinkhorn_iterations)
        return algorithm1_assign(scores_NK)

    @torch.no_grad()
    def update(self, features_ND: Tensor, codes_N: Tensor, momentum: float | None = None) -> None:
        """C <- normalise(m C + (1 - m) C_new), C_new the normalised mean of the assigned features."""
        momentum = self.config.momentum if momentum is None else momentum
        z_ND = self.normalise(features_ND)
        sums_KD = torch.zeros_like(self.prototypes).index_add_(0, codes_N, z_ND)
        used_K = torch.bincount(codes_N, minlength=self.prototypes.shape[0]) > 0
        moved = F.normalize(momentum * self.prototypes + (1 - momentum) * F.normalize(sums_KD, dim=-1), dim=-1)
        self.prototypes.copy_(torch.where(used_K[:, None], moved, self.prototypes))
        if self.config.center:
            self.mean.lerp_(features_ND.float().mean(0), 1 - CENTER_DECAY)
        self.num_updates += 1


def algorithm1_assign(scores_NK: Tensor) -> Tensor:
    """The pseudocode as published: softmax over codes, softmax over the batch of those probabilities, argmax over codes."""
    return scores_NK.softmax(1).softmax(0).argmax(1)


def sinkhorn_assign(scores_NK: Tensor, iterations: int) -> Tensor:
    """Sinkhorn-Knopp: alternately gives rows (features) and columns (codes) equal mass, then argmax over codes.

    In the log domain. The last column step is what balances: argmax of s - log of the code's mass.
    """
    log_NK = scores_NK
    for _ in range(iterations):
        log_NK = log_NK - log_NK.logsumexp(1, keepdim=True)
        log_NK = log_NK - log_NK.logsumexp(0, keepdim=True)
    return log_NK.argmax(1)


def usage_and_perplexity(codes_N: Tensor, codebook_size: int) -> tuple[float, float]:
    """(share of codes used, exp of the entropy of the code histogram in codes) of some assignments."""
    p = torch.bincount(codes_N, minlength=codebook_size).float()
    p = p / p.sum()
    used = p[p > 0]
    return used.numel() / codebook_size, float((-(used * used.log()).sum()).exp())
