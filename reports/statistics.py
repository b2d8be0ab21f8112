"""How far a score would move with other prompts and, given several, with other training seeds. In closed form.

Legend: C columns, V rows (variants), S training seeds, P clusters of one task.

A task's score is correct / scored items, a column's the unweighted mean over its tasks. Whatever is asked (a score, a
difference, a difference of differences, a mean over columns) is a sum of weight x score, computed for each seed; the estimate
is its mean over seeds. Two things vary, crossed with each other: prompts, whose items are alike (several images of one, say)
and the same for every row and seed; and seeds, which give the same start and order of data to every row. The variance is that
of two-way clustering (Cameron, Gelbach and Miller 2011): over prompts, plus over seeds, less what both have counted, and never
less than either.

- Over prompts: the linearised variance of a ratio, task by task.
- Over seeds: that of the S values, by Student's t with S - 1 degrees of freedom. Of two or three seeds it is hardly known; there
  the mean square of rows x seeds over all rows of the table (which a common effect of a seed does not touch) stands beside it,
  with (V - 1)(S - 1) degrees, and the larger of the two counts. From four seeds on pooling would save little, and would be wrong
  where rows vary unlike each other. With one seed the spread over seeds is not seen at all.

Degrees of freedom of the sum are Satterthwaite's. Intervals are 95%, not corrected for how many there are. Tests simulate what
they cover: at least .93 with two to eight seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rf_repro.core.errors import UserError

TAIL = 0.025  # probability on each side of an interval
FEW_SEEDS = 3  # up to here rows are pooled
Items = Sequence[Mapping[str, Any]]  # rows with tag, correct (a share of 1; None: not scored) and the field to cluster by


@dataclass(frozen=True)
class Interval:
    """An estimate, a fraction or a difference of fractions, with its standard error; `n` scored items behind it."""

    estimate: float
    error: float
    freedom: float  # of Student's t
    n: int
    seeds: tuple[int, ...]
    limits: tuple[float, float] = (-inf, inf)  # of what such an estimate can be

    @property
    def low(self) -> float:
        return max(self.estimate - self._half(), self.limits[0])

    @property
    def high(self) -> float:
        return min(self.estimate + self._half(), self.limits[1])

    def _half(self) -> float:
        return float(stats.t.isf(TAIL, self.freedom)) * self.error if self.error else 0.0

    def not_above(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the true value is not above the bound."""
        if not self.error:
            return float(self.estimate <= bound)
        return float(stats.t.sf((self.estimate - bound) / self.error, self.freedom))

    def not_below(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the true value is not below the bound."""
        if not self.error:
            return float(self.estimate >= bound)
        return float(stats.t.cdf((self.estimate - bound) / self.error, self.freedom))


@dataclass(frozen=True)
class Wins:
    """In how many columns one row is ahead of another.

    The interval is not that of resampled counts: among columns without a true difference some are ahead by chance, and a resample
    repeats that chance (a test simulates it). Instead each column has two p-values, for "not ahead" and for "not behind", which
    Holm's step-down procedure adjusts to one another.

    Attributes:
        not_ahead, not_behind: adjusted p-values of the columns, smallest first.
    """

    estimate: float
    not_ahead: tuple[float, ...]
    not_behind: tuple[float, ...]
    n: int
    seeds: tuple[int, ...]

    @property
    def low(self) -> float:
        """Columns ahead for certain: with a chance of 2.5% of any error."""
        return float(sum(p <= TAIL for p in self.not_ahead))

    @property
    def high(self) -> float:
        """All but those that are behind for certain."""
        return float(len(self.not_behind) - sum(p <= TAIL for p in self.not_behind))

    def fewer_than(self, count: int) -> float:
        """p-value of the hypothesis that fewer than `count` columns are truly ahead."""
        return self.not_ahead[count - 1] if count <= len(self.not_ahead) else 1.0

    def at_least(self, count: int) -> float:
        """p-value of the hypothesis that at least `count` columns are ahead, or without a difference."""
        return self.not_behind[len(self.not_behind) - count] if count > 0 else 1.0


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
    """Score of `better` minus score of `worse` over the seeds both have, prompt by prompt and seed by seed.

    Raises:
        UserError: they have no seed in common, or a seed has no scored item of a task.
    """
    return contrast([ColumnItems({"better": better, "worse": worse}, tasks, cluster)], {"better": 1.0, "worse": -1.0})


def contrast(columns: Sequence[ColumnItems], weights: Mapping[str, float]) -> Interval:
    """The sum of weight x score over rows, averaged over columns.

    Args:
        columns: each with all rows that `weights` names; others are there to pool. Two columns share no task: their clusters are
            drawn apart.
        weights: row key -> weight, e.g. 1 and -1 for a difference.

    Raises:
        UserError: the rows have no seed in common, or a seed has no scored item of a task.
    """
    return _measure(columns, weights, _common_seeds(columns, weights))


def columns_won(columns: Sequence[ColumnItems], better: str, worse: str) -> Wins:
    """In how many columns `better` is ahead of `worse`, over the seeds that all columns have.

    Raises:
        UserError: as `contrast`.
    """
    weights = {better: 1.0, worse: -1.0}
    seeds = _common_seeds(columns, weights)
    found = [_measure([column], weights, seeds) for column in columns]
    ahead = float(sum(one.estimate > 0 for one in found))
    not_ahead, not_behind = (holm(p) for p in ([one.not_above(0) for one in found], [one.not_below(0) for one in found]))
    return Wins(ahead, tuple(sorted(not_ahead)), tuple(sorted(not_behind)), sum(one.n for one in found), tuple(seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: rejecting those of at most a level errs at all with at most that chance (Holm
    1979)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def unique_prompts(items: Mapping[int, Items], task: str, cluster: str = "prompt") -> int:
    """Number of clusters of a task: what its interval rests on."""
    return len({row[cluster] for rows in items.values() for row in rows if row["tag"] == task})


def _common_seeds(columns: Sequence[ColumnItems], weights: Mapping[str, float]) -> list[int]:
    found = [set(column.rows[key]) for column in columns for key in weights]
    seeds = sorted(set.intersection(*found))
    if not seeds:
        raise UserError(f"no seed in common: {', '.join(str(sorted(each)) for each in found)}; run all variants with one seed")
    return seeds


def _measure(columns: Sequence[ColumnItems], weights: Mapping[str, float], seeds: Sequence[int]) -> Interval:
    pooled = [key for key in columns[0].rows if key not in weights and all(_has(column, key, seeds) for column in columns)]
    weight_V = np.array([*weights.values(), *[0.0] * len(pooled)])
    num_columns, num_seeds = len(columns), len(seeds)
    score_VS = np.zeros((len(weight_V), num_seeds))
    prompts, both, n = list[tuple[float, int]](), 0.0, 0  # variance and degrees of freedom of each task
    for column in columns:
        share = 1 / len(column.tasks) / num_columns
        for task in column.tasks:
            sides = [column.rows[key] for key in (*weights, *pooled)]
            correct_VSP, scored_VSP = _count(sides, seeds, task, column.cluster)
            n += int(scored_VSP[: len(weights)].sum())
            total_VS = scored_VSP.sum(2)
            ratio_VS = correct_VSP.sum(2) / total_VS
            score_VS += share * ratio_VS
            # What a cluster adds to the contrast of a seed, beside the mean: the ratio's derivative.
            residual_SP = np.einsum("v,vsp->sp", weight_V, (correct_VSP - ratio_VS[..., None] * scored_VSP) / total_VS[..., None])
            clusters = residual_SP.shape[1]
            factor = share**2 * clusters / max(clusters - 1, 1)
            prompts.append((factor * float((residual_SP.mean(0) ** 2).sum()), max(clusters - 1, 1)))
            both += factor * float((residual_SP**2).sum()) / num_seeds**2
    over_prompts = sum(variance for variance, _ in prompts)
    over_seeds, freedom_of_seeds = _over_seeds(weight_V, score_VS)
    variance = max(over_prompts + over_seeds - both, over_prompts, over_seeds)
    spread = sum(part**2 / freedom for part, freedom in [*prompts, (over_seeds, freedom_of_seeds)])
    estimate = float((weight_V @ score_VS).mean())
    limits = float(weight_V.clip(max=0).sum()), float(weight_V.clip(min=0).sum())  # scores are fractions
    return Interval(estimate, sqrt(variance), variance**2 / spread if spread else inf, n, tuple(seeds), limits)


def _over_seeds(weight_V: NDArray[np.float64], score_VS: NDArray[np.float64]) -> tuple[float, int]:
    """Variance over seeds of a contrast's mean, and its degrees of freedom."""
    num_rows, num_seeds = score_VS.shape
    if num_seeds == 1:
        return 0.0, 1
    own = float((weight_V @ score_VS).var(ddof=1)) / num_seeds
    if num_seeds > FEW_SEEDS or num_rows == 1 or abs(weight_V.sum()) > 1e-9:
        return own, num_seeds - 1
    residual_VS = score_VS - score_VS.mean(1, keepdims=True) - score_VS.mean(0) + score_VS.mean()
    freedom = (num_rows - 1) * (num_seeds - 1)
    pooled = float((residual_VS**2).sum()) / freedom * float(weight_V @ weight_V) / num_seeds
    unlike = own > pooled * stats.f.isf(0.05, num_seeds - 1, freedom)  # more than chance: these rows are not as the others
    return max(own, pooled), num_seeds - 1 if unlike else freedom


def _has(column: ColumnItems, key: str, seeds: Sequence[int]) -> bool:
    """Whether a row was scored in a column with every seed, in every task."""
    rows = column.rows.get(key, {})
    return all(
        seed in rows and any(item["tag"] == task and item["correct"] is not None for item in rows[seed])
        for seed in seeds
        for task in column.tasks
    )


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
