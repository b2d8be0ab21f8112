"""Online vector quantisation of encoder features (paper Sec. 3.1, Algorithm 1), over the global batch of all ranks.

N features of this rank (it may have none), n of a chunk of them, K prototypes, U that are used, D feature width. Everything is
float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.representation.assignment import Scores, algorithm1_assign, chunk_rows, chunks_of, sinkhorn_assign

CENTER_DECAY = 0.99


class OnlineVQ(nn.Module):
    """A codebook of K unit prototypes that follows the features it quantises, without gradients.

    Methods that take `ranks` take this rank's part of a global batch, and every rank must call them; prototypes and mean end
    alike on all ranks, bit by bit.

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
    def initialise(self, features_ND: Tensor, generator: torch.Generator, ranks: Ranks = ALONE) -> None:
        """Prototypes become random features (with repetition only if there are fewer than K in the global batch); the centring
        mean becomes theirs. The generator must be alike on all ranks."""
        counts = ranks.gather(torch.tensor([len(features_ND)])).tolist()
        first, total = sum(counts[: ranks.rank]), sum(counts)
        assert total > 0, "a codebook starts from features"
        if self.config.center:
            sum_D = features_ND.float().sum(0)
            ranks.sum_([sum_D])
            self.mean.copy_(sum_D / total)
        K = self.prototypes.shape[0]
        chosen = torch.cat([torch.randperm(total, generator=generator) for _ in range(-(-K // total))])[:K] - first
        own = (chosen >= 0) & (chosen < len(features_ND))
        self.prototypes.zero_()  # a row comes from one rank, so the sum is exact
        self.prototypes[own.to(self.prototypes.device)] = self.normalise(features_ND[chosen[own].to(features_ND.device)])
        ranks.sum_([self.prototypes])

    def normalise(self, features_ND: Tensor) -> Tensor:
        """Z: centred (where configured) and of unit length."""
        return F.normalize(features_ND.float() - self.mean, dim=-1)

    def scores(self, features_ND: Tensor, temperature: float) -> Scores:
        """Cosines with the prototypes over the temperature."""
        K = self.prototypes.shape[0]
        room_nK = torch.empty(chunk_rows(len(features_ND), K), K, device=features_ND.device)

        def rows(chosen: slice | Tensor) -> Tensor:
            z_nD = self.normalise(features_ND[chosen]).div_(temperature)
            return torch.mm(z_nD, self.prototypes.T, out=room_nK[: len(z_nD)])

        return Scores(len(features_ND), K, features_ND.device, rows, limit=1 / temperature)

    @torch.no_grad()
    def nearest(self, features_ND: Tensor) -> Tensor:
        """The closest prototype of each feature, int64 [N], whatever else is in the batch."""
        scores = self.scores(features_ND, 1.0)
        codes_N = torch.empty(len(features_ND), dtype=torch.int64, device=features_ND.device)
        with full_float32(features_ND.device):
            for rows in scores.chunks():
                codes_N[rows] = scores.rows(rows).argmax(1)
        return codes_N

    @torch.no_grad()
    def assign(self, features_ND: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """Codes of this rank's features in the balanced assignment of the global batch, int64 [N].

        Paper: Algorithm 1, with `balance` as configured. Equal to the same computation in float64 wherever its two best codes
        are further apart than float32 rounds, whatever the chunks and the ranks.
        """
        scores = self.scores(features_ND, self.config.temperature)
        with full_float32(features_ND.device):
            if self.config.balance == "sinkhorn":
                return sinkhorn_assign(scores, self.config.sinkhorn_iterations, ranks)
            return algorithm1_assign(scores, ranks)

    @torch.no_grad()
    def update(self, features_ND: Tensor, codes_N: Tensor, momentum: float | None = None, ranks: Ranks = ALONE) -> None:
        """C <- normalise(m C + (1 - m) C_new), C_new the normalised mean of the assigned features of the global batch."""
        momentum = self.config.momentum if momentum is None else momentum
        K, D = self.prototypes.shape
        counts_K = torch.bincount(codes_N, minlength=K)
        ranks.sum_([counts_K])
        used = counts_K.nonzero()[:, 0]  # only these move
        at_K = (counts_K > 0).cumsum(0) - 1  # where a used code is among them
        sums_UD, sum_D = torch.zeros(len(used), D, device=used.device), torch.zeros_like(self.mean)
        for rows in chunks_of(len(features_ND), K):
            sums_UD.index_add_(0, at_K[codes_N[rows]], self.normalise(features_ND[rows]))
            if self.config.center:
                sum_D += features_ND[rows].float().sum(0)
        ranks.sum_([sums_UD, sum_D])
        F.normalize(sums_UD, dim=-1, out=sums_UD).mul_(1 - momentum).add_(self.prototypes[used], alpha=momentum)
        self.prototypes[used] = F.normalize(sums_UD, dim=-1, out=sums_UD)
        if self.config.center:
            count = counts_K.sum()
            self.mean.lerp_(sum_D / count.clamp(min=1), (1 - CENTER_DECAY) * (count > 0).float())  # of no features: no move
        self.num_updates += 1


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 in float32, neither TF32 nor autocast's dtype, for the block: masses of codes are sums of exp
    of all scores, which no later look at a few of them could put right."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def usage_and_perplexity(codes_N: Tensor, codebook_size: int, ranks: Ranks = ALONE) -> tuple[float, float]:
    """(share of codes used, exp of the entropy of the code histogram in codes) of some assignments of all ranks, each of which
    gives its own."""
    counts_K = torch.bincount(codes_N, minlength=codebook_size)
    ranks.sum_([counts_K])
    p = counts_K.float()
    p = p / p.sum()
    used = p[p > 0]
    return used.numel() / codebook_size, float((-(used * used.log()).sum()).exp())
