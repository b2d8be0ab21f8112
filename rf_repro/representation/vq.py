"""Online vector quantisation of encoder features (paper Sec. 3.1, Algorithm 1), over the global batch of all ranks.

N features of this rank (it may have none), K prototypes, D feature width. Everything is float32, sums over the batch float64.

The [N, K] scores are made some rows at a time and never held whole, and what ranks tell each other has K or K x D numbers,
however many features there are. Both balances come down to argmax over codes of v - c: v depends on a feature's own scores, and
c, one number a code, on the whole batch. See `assign_balanced`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.representation_schema import RepresentationConfig

CENTER_DECAY = 0.99
CHUNK_NUMBERS = 2**22  # of one [rows, K] buffer: 16 MiB, of which two are held; twice that is slower (fresh pages each time)
CANDIDATES = 32  # codes of each feature that are kept until c is known


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

    def scores(self, features_ND: Tensor, temperature: float) -> "Scores":
        """Cosines with the prototypes over the temperature."""

        def rows(chosen: slice | Tensor) -> Tensor:
            return (self.normalise(features_ND[chosen]) @ self.prototypes.T).div_(temperature)

        return Scores(len(features_ND), self.prototypes.shape[0], features_ND.device, rows)

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
        sums_KD, sum_D = torch.zeros_like(self.prototypes), torch.zeros_like(self.mean)
        counts_K = torch.bincount(codes_N, minlength=K)
        for rows in chunks_of(len(features_ND), D):
            sums_KD.index_add_(0, codes_N[rows], self.normalise(features_ND[rows]))
            sum_D += features_ND[rows].float().sum(0)
        ranks.sum_([sums_KD, counts_K, sum_D])
        moved = F.normalize(momentum * self.prototypes + (1 - momentum) * F.normalize(sums_KD, dim=-1), dim=-1)
        self.prototypes.copy_(torch.where(counts_K[:, None] > 0, moved, self.prototypes))
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


def chunks_of(num_rows: int, width: int) -> Iterator[slice]:
    """Consecutive rows, at most CHUNK_NUMBERS numbers of a [rows, width] buffer at a time (or one row)."""
    rows = max(CHUNK_NUMBERS // width, 1)
    return (slice(first, min(first + rows, num_rows)) for first in range(0, num_rows, rows))


@dataclass(frozen=True)
class Scores:
    """A matrix [N, K] that is made rows at a time. `rows`: slice or int64 [n] -> new float32 [n, K]."""

    num_rows: int
    num_codes: int
    device: torch.device
    rows: Callable[[slice | Tensor], Tensor]

    def chunks(self) -> Iterator[slice]:
        return chunks_of(self.num_rows, self.num_codes)


class Columns(Protocol):
    """What is known of each code from the rows seen: `add` their values [n, K], `offsets` gives c [K] of them, and `sum_ranks`
    adds the rows of the other ranks."""

    def add(self, values_nK: Tensor) -> None: ...

    def sum_ranks(self, ranks: Ranks) -> None: ...

    def offsets(self) -> Tensor: ...


class LogMasses:
    """c_k = log sum_n exp(v_nk), as a maximum and a sum relative to it."""

    def __init__(self, scores: Scores) -> None:
        self.high_K = torch.full((scores.num_codes,), -torch.inf, device=scores.device)
        self.sum_K = torch.zeros(scores.num_codes, dtype=_wide(scores.device), device=scores.device)

    def _raise_to(self, high_K: Tensor) -> None:
        self.sum_K *= (self.high_K - high_K).exp()
        self.high_K.copy_(high_K)

    def add(self, values_nK: Tensor) -> None:
        self._raise_to(torch.maximum(self.high_K, values_nK.amax(0)))
        self.sum_K += (values_nK - self.high_K).exp_().sum(0)

    def sum_ranks(self, ranks: Ranks) -> None:
        if ranks.size > 1:
            high_K = self.high_K.clone()
            dist.all_reduce(high_K, dist.ReduceOp.MAX)
            self._raise_to(high_K)
            ranks.sum_([self.sum_K])

    def offsets(self) -> Tensor:
        return self.high_K + self.sum_K.log()


class LogMeans:
    """c_k = log mean_n exp(v_nk), for v in [0, 1] that are tiny: sums of exp(v) - 1, where exp(v) would round all but 1 away."""

    def __init__(self, scores: Scores) -> None:
        self.sum_K = torch.zeros(scores.num_codes, dtype=_wide(scores.device), device=scores.device)
        self.count = torch.zeros((), dtype=torch.int64, device=scores.device)

    def add(self, values_nK: Tensor) -> None:
        self.sum_K += values_nK.expm1().sum(0)
        self.count += len(values_nK)

    def sum_ranks(self, ranks: Ranks) -> None:
        ranks.sum_([self.sum_K, self.count])

    def offsets(self) -> Tensor:
        return (self.sum_K / self.count).log1p()


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks


def algorithm1_assign(scores: Scores, ranks: Ranks = ALONE) -> Tensor:
    """The pseudocode as published: softmax over codes, softmax over the batch of those probabilities, argmax over codes.

    v = p, c = log mean_n exp(p): the logarithm of the second softmax, which float32 would round to nearly 1/N everywhere.
    """
    return assign_balanced(scores, lambda s_nK: s_nK.softmax(1), LogMeans(scores), ranks)


def sinkhorn_assign(scores: Scores, iterations: int, ranks: Ranks = ALONE) -> Tensor:
    """Sinkhorn-Knopp: alternately gives rows (features) and columns (codes) equal mass, then argmax over codes.

    In the log domain, with the columns' scaling so far in `given_K`. The last column step is what balances: v = the log of the
    rows' shares, c = log of the code's mass.
    """
    given_K = torch.zeros(scores.num_codes, device=scores.device)

    def values(s_nK: Tensor) -> Tensor:
        return s_nK.sub_(given_K).log_softmax(1)

    for _ in range(iterations - 1):
        masses = LogMasses(scores)
        for rows in scores.chunks():
            masses.add(values(scores.rows(rows)))
        masses.sum_ranks(ranks)
        given_K = (given_K + masses.offsets()).float()
    return assign_balanced(scores, values, LogMasses(scores), ranks)


def assign_balanced(scores: Scores, values: Callable[[Tensor], Tensor], columns: Columns, ranks: Ranks) -> Tensor:
    """argmax over codes of v - c, int64 [N], in one pass over the scores where c turns out about as guessed.

    c is known only after all rows, so each row keeps the codes with the highest v - guess, where the guess is c of the rows so
    far. A code that was not kept has v - c <= the lowest v - guess kept + max_k (guess - c). Rows whose best kept code does not
    reach that, which guarantees nothing, have their scores made again.

    Args:
        values: fresh scores [n, K] -> v [n, K].
        columns: empty.
    """
    N, K, M = scores.num_rows, scores.num_codes, min(CANDIDATES, scores.num_codes)
    chunks, device = list(scores.chunks()), scores.device
    # All that stays is made before the large buffers come and go, so that those find the same place again.
    kept_NM, lowest_N = torch.empty(N, M, device=device), torch.empty(N, device=device)
    kept_codes_NM = torch.empty(N, M, dtype=torch.int64, device=device)
    guesses = torch.empty(len(chunks), K, dtype=_wide(device), device=device)
    for rows, guess_K in zip(chunks, guesses, strict=True):
        v_nK = values(scores.rows(rows))
        columns.add(v_nK)
        guess_K.copy_(columns.offsets())
        highest, codes = (v_nK - guess_K.to(v_nK.dtype)).topk(M, 1)
        kept_NM[rows], kept_codes_NM[rows], lowest_N[rows] = v_nK.gather(1, codes), codes, highest[:, -1]
        del v_nK  # before the next is made
    columns.sum_ranks(ranks)
    offsets_K = columns.offsets()

    best_N, at_N = (kept_NM - offsets_K[kept_codes_NM]).max(1)
    codes_N = kept_codes_NM.gather(1, at_N[:, None])[:, 0]
    unsure_N = torch.zeros(N, dtype=torch.bool, device=device)
    if M < K:
        for rows, guess_K in zip(chunks, guesses, strict=True):
            unsure_N[rows] = best_N[rows] < lowest_N[rows] + (guess_K - offsets_K).max()
    again = unsure_N.nonzero()[:, 0]
    for rows in chunks_of(len(again), K):
        codes_N[again[rows]] = (values(scores.rows(again[rows])) - offsets_K.to(torch.float32)).argmax(1)
    return codes_N


def usage_and_perplexity(codes_N: Tensor, codebook_size: int, ranks: Ranks = ALONE) -> tuple[float, float]:
    """(share of codes used, exp of the entropy of the code histogram in codes) of some assignments of all ranks, each of which
    gives its own."""
    counts_K = torch.bincount(codes_N, minlength=codebook_size)
    ranks.sum_([counts_K])
    p = counts_K.float()
    p = p / p.sum()
    used = p[p > 0]
    return used.numel() / codebook_size, float((-(used * used.log()).sum()).exp())
