"""Clustered bootstrap: how far a score would move with other prompts and, given several, other training seeds.

Legend: B resamples, C columns, V rows (variants), S training seeds, P clusters of one task.

Items of one cluster (images of one prompt, say) are alike, so the unit drawn is the cluster: within each task clusters are
drawn with replacement, the same ones for every row and seed, then whole seeds, the same ones for every row and column. A
task's score is correct / scored items over the drawn clusters, a column's the unweighted mean over its tasks. Whatever is
asked (a score, a difference, a difference of differences, a mean over columns, a count of columns) is computed from the
same resampled scores. Intervals are 95%. Limits: with S seeds the spread over seeds is understated by (S-1)/S, and with
one seed it is not seen at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed

RESAMPLES = 10_000
TAIL = 0.025  # probability on each side of an interval
Items = Sequence[Mapping[str, Any]]  # rows with tag, correct (a share of 1; None: not scored) and the field to cluster by


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval: a fraction, a difference of fractions or a count; `n` scored items behind it."""

    estimate: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ColumnItems:
    """What one column was scored on: row key -> training seed -> items, their tasks and the field they are drawn by."""

    rows: Mapping[str, Mapping[int, Items]]
    tasks: Sequence[str]
    cluster: str


def interval(items: Mapping[int, Items], tasks: Sequence[str], cluster: str = "prompt") -> Interval:
    """The unweighted mean over `tasks` of one variant's scores, averaged over seeds.

    Args:
        items: training seed -> items.
        tasks: tags to score; one tag gives that task's own score.
        cluster: field of an item that is drawn by.

    Raises:
        UserError: a seed has no scored item of a task.
    """
    return contrast([ColumnItems({"row": items}, tasks, cluster)], {"row": 1.0})


def paired_difference(
    better: Mapping[int, Items], worse: Mapping[int, Items], tasks: Sequence[str], cluster: str = "prompt"
) -> Interval:
    """Score of `better` minus score of `worse` over the seeds both have, on the same drawn clusters and seeds.

    Raises:
        UserError: they have no seed in common, or a seed has no scored item of a task.
    """
    return contrast([ColumnItems({"better": better, "worse": worse}, tasks, cluster)], {"better": 1.0, "worse": -1.0})


def contrast(columns: Sequence[ColumnItems], weights: Mapping[str, float]) -> Interval:
    """The sum of weight x score over rows, averaged over columns, with its percentile interval.

    Args:
        columns: each with all rows that `weights` names. Two columns share no task: their clusters are drawn apart.
        weights: row key -> weight, e.g. 1 and -1 for a difference.

    Raises:
        UserError: the rows have no seed in common, or a seed has no scored item of a task.
    """
    drawn = _bootstrap(columns, weights)
    low, high = np.nanquantile(drawn.contrasts_BC.mean(1), [TAIL, 1 - TAIL])
    return Interval(float(drawn.estimate_C.mean()), float(low), float(high), drawn.n, drawn.seeds)


def columns_won(columns: Sequence[ColumnItems], better: str, worse: str) -> Interval:
    """In how many columns `better` is ahead of `worse`, with a 95% interval for the number it is truly ahead in.

    The interval is not that of resampled counts: among columns without a true difference some are ahead by chance, and a
    resample repeats that chance, so that such an interval claims wins that are none (a test simulates it). Instead each column
    gets two one-sided bootstrap p-values, for "not ahead" and for "not behind". `low` counts the columns that Holm's step-down
    procedure finds ahead with a chance of 2.5% of any error, `high` is the number of columns less those it finds behind.

    Raises:
        UserError: as `contrast`.
    """
    drawn = _bootstrap(columns, {better: 1.0, worse: -1.0})
    not_ahead_C = (1 + (drawn.contrasts_BC <= 0).sum(0)) / (1 + RESAMPLES)
    not_behind_C = (1 + (drawn.contrasts_BC >= 0).sum(0)) / (1 + RESAMPLES)
    ahead, behind = _holm(not_ahead_C), _holm(not_behind_C)
    return Interval(float((drawn.estimate_C > 0).sum()), float(ahead), float(len(columns) - behind), drawn.n, drawn.seeds)


def _holm(p_values: NDArray[np.float64]) -> int:
    """How many hypotheses fall at a family-wise level of `TAIL`: the k-th smallest of n p-values against TAIL / (n - k + 1)."""
    fallen = np.sort(p_values) <= TAIL / np.arange(len(p_values), 0, -1)
    return int(np.cumprod(fallen).sum())


def unique_prompts(items: Mapping[int, Items], task: str, cluster: str = "prompt") -> int:
    """Number of clusters of a task: what its interval rests on."""
    return len({row[cluster] for rows in items.values() for row in rows if row["tag"] == task})


@dataclass(frozen=True)
class _Resampled:
    """Weighted sums over rows, of each column: as measured, and resampled."""

    estimate_C: NDArray[np.float64]
    contrasts_BC: NDArray[np.float64]
    n: int
    seeds: tuple[int, ...]


def _bootstrap(columns: Sequence[ColumnItems], weights: Mapping[str, float]) -> _Resampled:
    found = [set(column.rows[key]) for column in columns for key in weights]
    seeds = sorted(set.intersection(*found))
    if not seeds:
        raise UserError(f"no seed in common: {', '.join(str(sorted(each)) for each in found)}; run all variants with one seed")
    rng = np.random.default_rng(derive_seed("bootstrap"))
    weight_V = np.array(list(weights.values()))
    estimate_CS = np.zeros((len(columns), len(seeds)))
    contrasts_BCS = np.zeros((RESAMPLES, len(columns), len(seeds)))
    n = 0
    for c, column in enumerate(columns):
        sides = [column.rows[key] for key in weights]
        for task in column.tasks:
            correct_VSP, scored_VSP = _count(sides, seeds, task, column.cluster)
            n += int(scored_VSP.sum())
            share = 1 / len(column.tasks)
            estimate_CS[c] += share * (weight_V @ (correct_VSP.sum(2) / scored_VSP.sum(2)))
            clusters = scored_VSP.shape[2]
            drawn_BP = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(np.float64)
            with np.errstate(invalid="ignore"):  # 0/0 where only clusters without a scored item were drawn: left out later
                scores_BVS = np.einsum("bp,vsp->bvs", drawn_BP, correct_VSP, optimize=True) / np.einsum(
                    "bp,vsp->bvs", drawn_BP, scored_VSP, optimize=True
                )
            contrasts_BCS[:, c] += share * np.einsum("bvs,v->bs", scores_BVS, weight_V)
    drawn_BS = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=RESAMPLES) / len(seeds)
    contrasts_BC = np.einsum("bcs,bs->bc", contrasts_BCS, drawn_BS)
    return _Resampled(estimate_CS.mean(1), contrasts_BC, n, tuple(seeds))


def _count(
    sides: Sequence[Mapping[int, Items]], seeds: Sequence[int], task: str, cluster: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(sum of correct, scored items), both [V, S, P]; clusters in sorted order, so results don't depend on files'."""
    cells = {
        (v, s): [row for row in side[seed] if row["tag"] == task and row["correct"] is not None]
        for v, side in enumerate(sides)
        for s, seed in enumerate(seeds)
    }
    for (_, s), rows in cells.items():
        if not rows:
            raise UserError(f"seed {seeds[s]}: no scored item of task {task!r}; evaluate the run again")
    index = {value: p for p, value in enumerate(sorted({row[cluster] for rows in cells.values() for row in rows}))}
    counts = np.zeros((2, len(sides), len(seeds), len(index)))
    for (v, s), rows in cells.items():
        for row in rows:
            p = index[row[cluster]]
            counts[0, v, s, p] += float(row["correct"])
            counts[1, v, s, p] += 1
    return counts[0], counts[1]
