"""Figures of one table: bars per task and learning curves."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ablations.grid import AblationGrid, Column
from reports.collect import RowScores
from reports.curves import Point
from reports.figures import Colors, legend_above, make_axes, seed_lines, to_png

Curves = Mapping[str, Mapping[int, Sequence[Point]]]
PANELS = 4  # a row of a figure by types of question


def bars_figure(grid: AblationGrid, ylabel: str, groups: Sequence[tuple[str, Column, tuple[str, ...]]],
                scores: Mapping[str, Mapping[str, RowScores]], colors: Colors) -> bytes | None:  # fmt: skip
    """Bars of each row with 95% intervals; None when nothing was measured.

    Args:
        groups: name, column and tasks of each group of bars.
        scores: column key -> row key -> scores.
    """
    measured = [row for row in grid.rows if any(scores[column.key][row.key].results for _, column, _ in groups)]
    if not measured:
        return None
    figure, (ax,) = make_axes(1, (9, 3.6))
    width = 0.8 / len(measured)
    for index, row in enumerate(measured):
        found = [(x, scores[column.key][row.key], tasks) for x, (_, column, tasks) in enumerate(groups)]
        parts = [(x, score.interval(tasks)) for x, score, tasks in found if score.results]
        x = np.array([x for x, _ in parts]) + (index - (len(measured) - 1) / 2) * width
        heights = np.array([part.estimate for _, part in parts])
        # A percentile interval may leave out its estimate by rounding alone; matplotlib refuses a negative bar then.
        errors = np.maximum(0, [heights - [part.low for _, part in parts], [part.high for _, part in parts] - heights])
        ax.bar(x, heights, width, yerr=errors, label=row.label, color=colors[row.key], capsize=2,
               error_kw={"elinewidth": 1, "ecolor": "#333333"})  # fmt: skip
    ax.set_xticks(np.arange(len(groups)), [name for name, _, _ in groups])
    if groups[-1][0] == "overall":
        ax.axvline(len(groups) - 1.5, color="#999999", linewidth=0.8)
    ax.set(ylim=(0, 1), ylabel=ylabel)
    ax.grid(axis="x", visible=False)
    legend_above(figure)
    return to_png(figure)


def curves_figure(grid: AblationGrid, column: Column, curves: Curves, colors: Colors) -> bytes | None:
    """The score against steps and against training compute: thin lines are seeds, thick ones their mean."""
    data = _points(grid, curves)
    if data.empty:
        return None
    panels = [("step", "training steps"), ("seconds", "training compute (s)")]
    if data["seconds"].isna().any():
        panels = panels[:1]
    figure, axes = make_axes(len(panels), (9, 3.6))
    for ax, (x, label) in zip(axes, panels, strict=True):
        seed_lines(ax, data, x, "score", {row.label: colors[row.key] for row in grid.rows})
        ax.set(xlabel=label, ylabel=f"{column.label}, overall", ylim=(0, 1), xlim=(0, None))
    legend_above(figure)
    return to_png(figure)


def question_curves_figure(grid: AblationGrid, curves: Mapping[str, Curves], colors: Colors) -> bytes:
    """A panel a type of question: its share correct against steps."""
    rows = math.ceil(len(curves) / PANELS)
    figure, axes = make_axes(PANELS, (9, 0.6 + 1.9 * rows), rows)
    for ax, (name, lines) in zip(axes, curves.items(), strict=False):  # the last row may have panels to spare
        seed_lines(ax, _points(grid, lines), "step", "score", {row.label: colors[row.key] for row in grid.rows})
        ax.set(xlabel="", ylabel="", ylim=(0, 1), xlim=(0, None))
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    legend_above(figure)
    return to_png(figure)


def _points(grid: AblationGrid, curves: Curves) -> pd.DataFrame:
    return pd.DataFrame(
        {"label": grid.variant(key).label, "seed": seed, "step": point.step, "seconds": point.seconds, "score": point.score}
        for key, seeds in curves.items()
        for seed, line in seeds.items()
        for point in line
    )
