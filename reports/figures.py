"""What every figure shares: one colour a variant in the whole report, axes, a legend above the panels, PNG bytes."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

from pandas import DataFrame

from ablations.registry import ABLATIONS
from rf_repro.core.streams import quiet_stderr

with quiet_stderr():  # where HOME cannot be written, Matplotlib and fontconfig have much to say about their caches
    import matplotlib
    import seaborn as sns  # type: ignore[import-untyped]
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a label may hold any text
sns.set_theme(style="whitegrid", rc={"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11})

FONTS = f"{matplotlib.get_data_path()}/fonts/ttf"  # which it ships: the same on every machine
LEGEND_WIDTH = 85  # characters that a figure of nine inches has room for


Colors = Mapping[str, Any]  # variant key -> colour


def variant_colors(keys: Iterable[str]) -> Colors:
    """Of a report's variants, the same in every figure of every table; those of our tables are the same in every report."""
    ours = list(dict.fromkeys(row.key for grid in ABLATIONS for row in grid.rows))
    colors = list(sns.color_palette("colorblind", 10))
    if len(ours) > len(colors):
        colors += sns.husl_palette(len(ours) - len(colors), s=0.6, l=0.45)
    found = dict(zip(ours, colors, strict=False))  # the palette may have colours to spare
    others = [key for key in dict.fromkeys(keys) if key not in found]
    return found | dict(zip(others, sns.husl_palette(len(others), s=0.75, l=0.7), strict=True)) if others else found


def seed_lines(ax: Axes, data: DataFrame, x: str, y: str, colors: Mapping[str, Any]) -> None:
    """A thin line a seed and the mean over seeds at each step; against compute, the mean sits at the mean compute.

    Args:
        data: rows with `label`, `seed`, `step`, `x` and `y`.
        colors: label -> colour.
    """
    if data.groupby("label")["seed"].nunique().max() > 1:
        sns.lineplot(data, x=x, y=y, hue="label", units="seed", estimator=None, palette=colors, ax=ax, linewidth=0.8,
                     alpha=0.4, legend=False)  # fmt: skip
    counts = data.groupby(["label", "step"])["seed"].transform("nunique")
    whole = data[counts == data.groupby("label")["seed"].transform("nunique")]  # a mean over survivors would mislead
    mean = whole.groupby(["label", "step"], as_index=False, sort=False)[sorted({x, y} - {"step"})].mean()
    if mean.empty:
        return
    marker = "o" if mean.groupby("label").size().max() <= 20 else None
    sns.lineplot(mean, x=x, y=y, hue="label", estimator=None, palette=colors, ax=ax, linewidth=2, marker=marker, errorbar=None)


def make_axes(columns: int, size: tuple[float, float], rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `size` inches and its panels, row by row."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def legend_above(figure: Figure) -> None:
    """One legend for the figure, above its panels; none when nothing labelled was drawn."""
    entries: dict[str, Any] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in entries}
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    if entries:
        columns = max(1, min(len(entries), int(LEGEND_WIDTH / (max(map(len, entries)) + 5))))
        figure.legend(entries.values(), entries, loc="outside upper left", ncols=columns, frameon=False)


def to_png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
