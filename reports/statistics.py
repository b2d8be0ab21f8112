"""Clustered bootstrap: how far a score would move with other prompts and, given several, other training seeds.

Legend: B resamples, V variants (1, or 2 for a difference), S training seeds, P unique prompts of one task.

Images of one prompt are alike, so the unit drawn is the prompt: unique prompts are drawn with replacement within each
task, the same ones for every variant and seed, then whole seeds. A task's score is correct / scored images over the drawn
prompts; the overall score is the unweighted mean over tasks. Intervals are 95% percentile intervals. Limits: with S
seeds the spread over seeds is understated by (S-1)/S, and with one seed it is not seen at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed

RESAMPLES = 10_000
Items = Sequence[Mapping[str, Any]]  # per-image rows with tag, prompt, correct (None: could not be scored)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval (fractions, or a difference of fractions); `n` scored images behind it."""

    estimate: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]


def interval(items: Mapping[int, Items], tasks: Sequence[str]) -> Interval:
    """The unweighted mean over `tasks` of one variant's scores, averaged over seeds.

    Args:
        items: training seed -> per-image rows.
        tasks: tags to score; one tag gives that task's own score.

    Raises:
        UserError: a seed has no scored image of a task.
    """
    return _bootstrap([items], tasks)


def paired_difference(better: Mapping[int, Items], worse: Mapping[int, Items], tasks: Sequence[str]) -> Interval:
    """Score of `better` minus score of `worse` over the seeds both have, on the same drawn prompts and seeds.

    Raises:
        UserError: they have no seed in common, or a seed has no scored image of a task.
    """
    seeds = sorted(set(better) & set(worse))
    if not seeds:
        raise UserError(f"no seed in common: {sorted(better)} and {sorted(worse)}; run both variants with one seed")
    return _bootstrap([{seed: side[seed] for seed in seeds} for side in (better, worse)], tasks)


def unique_prompts(items: Mapping[int, Items], task: str) -> int:
    """Number of prompts of a task: the clusters its interval rests on."""
    return len({row["prompt"] for rows in items.values() for row in rows if row["tag"] == task})


def _bootstrap(sides: Sequence[Mapping[int, Items]], tasks: Sequence[str]) -> Interval:
    seeds = sorted(sides[0])
    rng = np.random.default_rng(derive_seed("bootstrap"))
    estimate_VS = np.zeros((len(sides), len(seeds)))
    scores_BVS = np.zeros((RESAMPLES, len(sides), len(seeds)))
    n = 0
    for task in tasks:
        correct_VSP, scored_VSP = _count(sides, seeds, task)
        n += int(scored_VSP.sum())
        estimate_VS += correct_VSP.sum(2) / scored_VSP.sum(2) / len(tasks)
        prompts = scored_VSP.shape[2]
        drawn_BP = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0/0 where only prompts without a scored image were drawn: left out below
            scores_BVS += np.einsum("bp,vsp->bvs", drawn_BP, correct_VSP, optimize=True) / (
                np.einsum("bp,vsp->bvs", drawn_BP, scored_VSP, optimize=True) * len(tasks)
            )
    drawn_BS = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=RESAMPLES) / len(seeds)
    scores_BV = np.einsum("bvs,bs->bv", scores_BVS, drawn_BS)
    sign_V = np.array([1.0, -1.0])[: len(sides)]
    low, high = np.nanquantile(scores_BV @ sign_V, [0.025, 0.975])
    return Interval(float(estimate_VS.mean(1) @ sign_V), float(low), float(high), n, tuple(seeds))


def _count(sides: Sequence[Mapping[int, Items]], seeds: Sequence[int], task: str) -> tuple[NDArray, NDArray]:
    """(correct images, scored images), both [V, S, P] float64; prompts in sorted order, so results don't depend on files'."""
    cells = {
        (v, s): [row for row in side[seed] if row["tag"] == task and row["correct"] is not None]
        for v, side in enumerate(sides)
        for s, seed in enumerate(seeds)
    }
    for (_, s), rows in cells.items():
        if not rows:
            raise UserError(f"seed {seeds[s]}: no scored image of task {task!r}; evaluate the run again")
    index = {prompt: p for p, prompt in enumerate(sorted({row["prompt"] for rows in cells.values() for row in rows}))}
    counts = np.zeros((2, len(sides), len(seeds), len(index)))
    for (v, s), rows in cells.items():
        for row in rows:
            p = index[row["prompt"]]
            counts[0, v, s, p] += bool(row["correct"])
            counts[1, v, s, p] += 1
    return counts[0], counts[1]
