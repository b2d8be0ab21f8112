"""Balanced assignment of features to codes, exact, some rows of scores at a time (paper Sec. 3.1, Algorithm 1).

N features of this rank (it may have none), n of a chunk of them, t of a tile of that, K codes; L blocks of B codes, M of them
kept. Everything is float32, sums over the batch float64.

The [N, K] scores are never held whole, and what ranks tell each other has K numbers, however many features there are. Both
balances come down to argmax over codes of v - c: v depends on a feature's own scores, and c, one number a code, on the whole
batch. See `assign_balanced`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks

CHUNK_NUMBERS = 2**22  # of a [rows, K] buffer: 16 MiB, which a fast matrix product needs
TILE_NUMBERS = 2**18  # of what a CPU does all else with at a time: 1 MiB, which stays in its cache
BLOCK = 32  # codes that are kept or not kept together
CANDIDATES = 16  # blocks of each feature that are kept until c is known
FLAT = 20.0  # size of scores whose exp, and products of a few of those, float32 can hold


def chunk_rows(num_rows: int, width: int) -> int:
    """Rows of a [rows, width] buffer that has at most CHUNK_NUMBERS numbers (or one row)."""
    return min(max(CHUNK_NUMBERS // width, 1), num_rows)


def chunks_of(num_rows: int, width: int) -> Iterator[slice]:
    """Consecutive rows, as many as such a buffer has at a time."""
    rows = chunk_rows(num_rows, width)
    return (slice(first, min(first + rows, num_rows)) for first in range(0, num_rows, max(rows, 1)))


@dataclass(frozen=True)
class Scores:
    """A matrix [N, K] that is made rows at a time.

    Args:
        rows: slice or int64 [n] -> float32 [n, K], the caller's until the next call.
        limit: no score is larger in size.
    """

    num_rows: int
    num_codes: int
    device: torch.device
    rows: Callable[[slice | Tensor], Tensor]
    limit: float = inf

    @property
    def flat(self) -> bool:
        """Whether exp of them needs no care."""
        return self.limit <= FLAT

    def chunks(self) -> Iterator[slice]:
        return chunks_of(self.num_rows, self.num_codes)

    @cached_property
    def room_tBL(self) -> Tensor:
        """A buffer for a tile, where code k is at [k // L, k % L], and -inf where there is none. A CPU has few rows in its cache,
        other devices take a chunk at once."""
        rows = chunk_rows(self.num_rows, self.num_codes)
        if self.device.type == "cpu":
            rows = min(rows, max(TILE_NUMBERS // self.num_codes, 1))
        return torch.full((rows, BLOCK, -(-self.num_codes // BLOCK)), -inf, device=self.device)

    def room(self, rows: int) -> Tensor:
        """That buffer as [rows, K]."""
        return self.room_tBL[:rows].flatten(1)[:, : self.num_codes]

    def tiles(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """Views of each, of as many rows at a time as there is room for."""
        return list(zip(*(tensor.split(len(self.room_tBL)) for tensor in tensors), strict=True))


class Columns(Protocol):
    """What is known of each code from the rows seen: `add` their values [n, K], `offsets` gives c [K] of them, and `sum_ranks`
    adds the rows of the other ranks."""

    def add(self, values_tK: Tensor) -> None: ...

    def sum_ranks(self, ranks: Ranks) -> None: ...

    def offsets(self) -> Tensor: ...


class Masses:
    """c_k = log sum_n (E_nk / sum_j E_nj exp(-given_j)), E = exp(v), of flat v: Sinkhorn-Knopp as it is mostly written."""

    def __init__(self, scores: Scores, given_K: Tensor) -> None:
        self.room = scores.room
        self.scale_K = (-given_K).exp()
        self.sum_K = torch.zeros(scores.num_codes, dtype=_wide(scores.device), device=scores.device)

    def add(self, values_tK: Tensor) -> None:
        e_tK = torch.exp(values_tK, out=self.room(len(values_tK)))
        self.sum_K += e_tK.T @ (e_tK @ self.scale_K).reciprocal_()

    def sum_ranks(self, ranks: Ranks) -> None:
        ranks.sum_([self.sum_K])

    def offsets(self) -> Tensor:
        return self.sum_K.log()


class LogMasses:
    """c_k = log sum_n exp(v_nk), as a maximum and a sum relative to it."""

    def __init__(self, scores: Scores) -> None:
        self.high_K = torch.full((scores.num_codes,), -torch.inf, device=scores.device)
        self.sum_K = torch.zeros(scores.num_codes, dtype=_wide(scores.device), device=scores.device)

    def _raise_to(self, high_K: Tensor) -> None:
        self.sum_K *= (self.high_K - high_K).exp()
        self.high_K.copy_(high_K)

    def add(self, values_tK: Tensor) -> None:
        self._raise_to(torch.maximum(self.high_K, values_tK.amax(0)))
        self.sum_K += (values_tK - self.high_K).exp_().sum(0)

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
        self.room = scores.room
        self.sum_K = torch.zeros(scores.num_codes, dtype=_wide(scores.device), device=scores.device)
        self.count = torch.zeros((), dtype=torch.int64, device=scores.device)

    def add(self, values_tK: Tensor) -> None:
        self.sum_K += torch.expm1(values_tK, out=self.room(len(values_tK))).sum(0)
        self.count += len(values_tK)

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

    def values(s_nK: Tensor) -> Tensor:
        if not scores.flat:
            return s_nK.copy_(s_nK.softmax(1))
        e_nK = s_nK.exp_()  # fewer passes than softmax, which looks for the maximum
        return e_nK.div_(e_nK.sum(1, keepdim=True))

    return assign_balanced(scores, values, LogMeans(scores), ranks)


def sinkhorn_assign(scores: Scores, iterations: int, ranks: Ranks = ALONE) -> Tensor:
    """Sinkhorn-Knopp: alternately gives rows (features) and columns (codes) equal mass, then argmax over codes.

    The columns' scaling so far is `given_K`, a logarithm. The last column step is what balances: v = the log of the rows' shares,
    c = log of the code's mass. Of flat scores, v = the scores: what a row was divided by is alike for all its codes.
    """
    given_K = torch.zeros(scores.num_codes, device=scores.device)

    def values(s_nK: Tensor) -> Tensor:
        return s_nK if scores.flat else s_nK.copy_(s_nK.sub_(given_K).log_softmax(1))

    for _ in range(iterations - 1):
        masses = Masses(scores, given_K) if scores.flat else LogMasses(scores)
        for rows in scores.chunks():
            for (tile_tK,) in scores.tiles(scores.rows(rows)):
                masses.add(values(tile_tK))
        masses.sum_ranks(ranks)
        given_K = (masses.offsets() if scores.flat else given_K + masses.offsets()).float()
    return assign_balanced(scores, values, Masses(scores, given_K) if scores.flat else LogMasses(scores), ranks)


def assign_balanced(scores: Scores, values: Callable[[Tensor], Tensor], columns: Columns, ranks: Ranks) -> Tensor:
    """argmax over codes of v - c, int64 [N], in one pass over the scores where c turns out about as guessed.

    c is known only after all rows, so each row keeps the M blocks of codes that reach the highest v - guess, where the guess is c
    of the chunks before (the first chunk's is its own). A code that was not kept has v - c <= the highest v - guess of the next
    block + max_k (guess - c). Rows whose best kept code does not reach that, which guarantees nothing, have their scores made
    again.

    Args:
        values: scores [n, K] -> v [n, K], in their place.
        columns: empty.
    """
    N, K, L = scores.num_rows, scores.num_codes, -(-scores.num_codes // BLOCK)
    M = min(CANDIDATES, L)
    chunks, device = list(scores.chunks()), scores.device
    kept_NBM, blocks_NM = torch.empty(N, BLOCK, M, device=device), torch.empty(N, M, dtype=torch.int64, device=device)
    next_N = torch.full((N,), -inf, device=device)
    guesses = torch.empty(len(chunks), K, device=device)
    for rows, guess_K in zip(chunks, guesses, strict=True):
        tiles = scores.tiles(scores.rows(rows), kept_NBM[rows], blocks_NM[rows], next_N[rows])
        if rows.start == 0:
            for v_tK, *_ in tiles:
                columns.add(values(v_tK))
        guess_K.copy_(columns.offsets())
        for v_tK, kept_tBM, blocks_tM, next_t in tiles:
            if rows.start > 0:
                columns.add(values(v_tK))
            torch.sub(v_tK, guess_K, out=scores.room(len(v_tK)))
            ahead_tBL = scores.room_tBL[: len(v_tK)]  # the same, in blocks
            highest, blocks = ahead_tBL.amax(1).topk(min(M + 1, L), 1)
            blocks_tM.copy_(blocks[:, :M])
            torch.gather(ahead_tBL, 2, blocks_tM[:, None].expand_as(kept_tBM), out=kept_tBM)
            if M < L:
                next_t.copy_(highest[:, M])
    columns.sum_ranks(ranks)
    offsets_K = columns.offsets()

    codes_N = torch.empty(N, dtype=torch.int64, device=device)
    unsure_N = torch.empty(N, dtype=torch.bool, device=device)
    for rows, guess_K in zip(chunks, guesses, strict=True):
        kept_nBM, blocks_nM = kept_NBM[rows], blocks_NM[rows]
        off_K = guess_K - offsets_K
        off_BL = F.pad(off_K, (0, BLOCK * L - K)).view(BLOCK, L)
        ahead_nBM = off_BL.expand(len(kept_nBM), BLOCK, L).gather(2, blocks_nM[:, None].expand_as(kept_nBM)).add_(kept_nBM)
        best_n, at_n = ahead_nBM.flatten(1).max(1)
        codes_N[rows] = at_n // M * L + blocks_nM.gather(1, (at_n % M)[:, None])[:, 0]
        unsure_N[rows] = best_n < next_N[rows] + off_K.max()
    again = unsure_N.nonzero()[:, 0]
    for rows in chunks_of(len(again), K):
        codes_N[again[rows]] = values(scores.rows(again[rows])).sub_(offsets_K.float()).argmax(1)
    return codes_N
