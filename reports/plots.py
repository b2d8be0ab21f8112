"""Figures as PNG bytes: bars per task, learning curves, losses, codebook health. Colour means the variant everywhere."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablations.grid import AblationGrid, Column
from reports.collect import GridRuns, RowScores
from reports.curves import Point, metric_rows
from reports.statistics import interval

matplotlib.use("Agg")
sns.set_theme(style="whitegrid", rc={"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11})

Curves = Mapping[str, Mapping[int, Sequence[Point]]]
LOSSES = {"loss/text": "Text loss", "loss/flow": "Flow loss", "loss/representation": "Representation loss"}
CODEBOOK = {"codebook/usage": "Share of codes in use", "codebook/perplexity": "Perplexity of code use"}


def palette(grid: AblationGrid) -> dict[str, Any]:
    """Row label -> colour, the same in every figure of a table."""
    return {row.label: color for row, color in zip(grid.rows, sns.color_palette("colorblind", len(grid.rows)), strict=True)}


def tasks_figure(grid: AblationGrid, column: Column, scores: Mapping[str, RowScores]) -> bytes | None:
    """Bars per task and overall with 95% intervals; None when nothing was measured."""
    measured = [score for score in scores.values() if score.results]
    if not measured:
        return None
    figure, axes = _axes(1, (9, 3.6))
    groups = [(task.replace("_", " "), (task,)) for task in column.tasks] + [("overall", column.tasks)]
    width = 0.8 / len(measured)
    for index, score in enumerate(measured):
        parts = [interval(score.items, tasks) for _, tasks in groups]
        x = np.arange(len(groups)) + (index - (len(measured) - 1) / 2) * width
        heights = np.array([part.estimate for part in parts])
        # A percentile interval may leave out its estimate by rounding alone; matplotlib refuses a negative bar then.
        errors = np.maximum(0, [heights - [part.low for part in parts], [part.high for part in parts] - heights])
        axes[0].bar(x, heights, width, yerr=errors, label=score.variant.label, color=palette(grid)[score.variant.label],
                    capsize=2.5, error_kw={"elinewidth": 1, "ecolor": "#333333"})  # fmt: skip
    axes[0].set_xticks(np.arange(len(groups)), [name for name, _ in groups])
    axes[0].axvline(len(groups) - 1.5, color="#999999", linewidth=0.8)
    axes[0].set(ylim=(0, 1), ylabel=f"{column.label} (share correct)")
    axes[0].grid(axis="x", visible=False)
    _legend(figure, axes[0])
    return _png(figure)


def curves_figure(grid: AblationGrid, column: Column, curves: Curves) -> bytes | None:
    """The score against steps and against training compute: thin lines are seeds, thick ones their mean."""
    data = pd.DataFrame(
        {"variant": grid.variant(key).label, "seed": seed, "step": point.step, "seconds": point.seconds, "score": point.score}
        for key, seeds in curves.items()
        for seed, line in seeds.items()
        for point in line
    )
    if data.empty:
        return None
    panels = [("step", "training steps"), ("seconds", "training compute (s)")]
    if data["seconds"].isna().any():
        panels = panels[:1]
    figure, axes = _axes(len(panels), (9, 3.6))
    for ax, (x, label) in zip(axes, panels, strict=True):
        _seed_lines(ax, data, x, "score", grid)
        ax.set(xlabel=label, ylabel=f"{column.label}, overall", ylim=(0, 1), xlim=(0, None))
    _legend(figure, axes[0])
    return _png(figure)


def losses_figure(runs: GridRuns) -> bytes | None:
    """The terms of the objective against steps."""
    return _metrics_figure(runs, LOSSES)


def codebook_figure(runs: GridRuns) -> bytes | None:
    """Code usage and perplexity against steps, for variants that have a codebook."""
    return _metrics_figure(runs, CODEBOOK)


def _metrics_figure(runs: GridRuns, names: Mapping[str, str]) -> bytes | None:
    rows = [
        {"variant": runs.grid.variant(key).label, "seed": seed, "step": row["step"], "name": name, "value": row[name]}
        for key, seeds in runs.rows.items()
        for seed, run in seeds.items()
        for row in metric_rows(run)
        for name in names
        if row.get(name) is not None
    ]
    data = pd.DataFrame(rows, columns=["variant", "seed", "step", "name", "value"])
    shown = [name for name in names if (data["name"] == name).any()]
    if not shown:
        return None
    figure, axes = _axes(len(shown), (9, 3.0))
    for ax, name in zip(axes, shown, strict=True):
        _seed_lines(ax, data[data["name"] == name], "step", "value", runs.grid)
        ax.set(xlabel="training steps", ylabel="", title=names[name])
        if name == "codebook/usage":
            ax.set(ylim=(0, 1.03))
    _legend(figure, axes[0])
    return _png(figure)


def _seed_lines(ax: Axes, data: pd.DataFrame, x: str, y: str, grid: AblationGrid) -> None:
    """A thin line a seed and the mean over seeds at each step; against compute, the mean sits at the mean compute."""
    colors = palette(grid)
    if data["seed"].nunique() > 1:
        sns.lineplot(data, x=x, y=y, hue="variant", units="seed", estimator=None, palette=colors, ax=ax, linewidth=0.8,
                     alpha=0.45, legend=False)  # fmt: skip
    counts = data.groupby(["variant", "step"])["seed"].transform("nunique")
    whole = data[counts == data.groupby("variant")["seed"].transform("nunique")]  # a mean over survivors would mislead
    mean = whole.groupby(["variant", "step"], as_index=False, sort=False)[sorted({x, y} - {"step"})].mean()
    if mean.empty:
        return
    marker = "o" if mean.groupby("variant").size().max() <= 20 else None
    sns.lineplot(mean, x=x, y=y, hue="variant", estimator=None, palette=colors, ax=ax, linewidth=2, marker=marker, errorbar=None)


def _axes(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _legend(figure: Figure, ax: Axes) -> None:
    """One legend for the figure, above its panels; none when no mean could be drawn."""
    handles, labels = ax.get_legend_handles_labels()
    for panel in figure.axes:
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()
