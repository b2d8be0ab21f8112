"""Figures of all runs together: the objective's terms, the codebook's health on the way, and its use by size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.collect import GridRuns
from reports.figures import Colors, legend_above, make_axes, seed_lines, to_png
from reports.runs import Run
from reports.tables import Table
from rf_repro.config.overrides import config_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CODEBOOK = {"codebook/usage": "Share of codes in use", "codebook/perplexity": "Perplexity of code use"}
PANELS = 3  # a row of a figure


@dataclass(frozen=True)
class RunRow:
    """One variant, whichever tables it stands in, with its runs by seed. `key`: the name of its runs."""

    key: str
    label: str
    runs: dict[int, Run]


def all_rows(tables: Sequence[GridRuns]) -> list[RunRow]:
    """The variants that have runs, each once; one that the first table does not have bears the name of the table that does."""
    rows: dict[str, RunRow] = {}
    for table in tables:
        for row in table.grid.rows:
            if table.rows[row.key]:
                label = row.label if table is tables[0] else f"{row.label} ({table.grid.title})"
                name = table.names[row.key]
                rows.setdefault(name, RunRow(name, label, table.rows[row.key]))
    return list(rows.values())


def losses_figure(rows: Sequence[RunRow], colors: Colors) -> bytes | None:
    """Every term of the objective that was logged, against steps."""
    logged = {name for row in rows for run in row.runs.values() for line in run.metrics for name in line}
    names = {name: f"{name.removeprefix('loss/').replace('_', ' ').capitalize()} loss"
             for name in sorted(name for name in logged if name.startswith("loss/"))}  # fmt: skip
    return _metrics_figure(rows, names, colors)


def codebook_figure(rows: Sequence[RunRow], colors: Colors) -> bytes | None:
    """Code usage and perplexity against steps, for variants that have a codebook."""
    return _metrics_figure(rows, CODEBOOK, colors)


def _metrics_figure(rows: Sequence[RunRow], names: Mapping[str, str], colors: Colors) -> bytes | None:
    points = [
        {"label": row.label, "seed": seed, "step": line["step"], "name": name, "value": line[name]}
        for row in rows
        for seed, run in row.runs.items()
        for line in run.metrics
        for name in names
        if line.get(name) is not None
    ]
    data = pd.DataFrame(points, columns=["label", "seed", "step", "name", "value"])
    shown = [name for name in names if (data["name"] == name).any()]
    if not shown:
        return None
    by_label = {row.label: colors[row.key] for row in rows}
    columns = min(len(shown), PANELS)
    height = -(-len(shown) // columns)
    figure, axes = make_axes(columns, (9, 0.6 + 2.7 * height), height)
    for ax, name in zip(axes, shown, strict=False):  # the last row may have panels to spare
        seed_lines(ax, data[data["name"] == name], "step", "value", by_label)
        ax.set(xlabel="training steps", ylabel="", title=names[name])
        if name == "codebook/usage":
            ax.set(ylim=(0, 1.03))
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    legend_above(figure)
    return to_png(figure)


@dataclass(frozen=True)
class CodebookUse:
    """The last logged use of one run's codebook: share of its `size` codes in use, and perplexity of their use."""

    row: RunRow
    seed: int
    size: int
    usage: float
    perplexity: float


def codebook_use(rows: Sequence[RunRow]) -> list[CodebookUse]:
    """Of every run that logged its codebook, in order of size."""
    found = []
    for row in rows:
        for seed, run in row.runs.items():
            last = next((line for line in reversed(run.metrics) if line.get("codebook/usage") is not None), None)
            if last is not None:
                size = config_of(run.dir).representation.codebook_size
                found.append(CodebookUse(row, seed, size, last["codebook/usage"], last["codebook/perplexity"]))
    return sorted(found, key=lambda use: (use.size, use.row.label, use.seed))


def codebook_size_figure(uses: Sequence[CodebookUse], colors: Colors) -> bytes | None:
    """Usage and perplexity against the codebook's size, a dot a run; None with fewer than two sizes."""
    sizes = sorted({use.size for use in uses})
    if len(sizes) < 2:
        return None
    figure, axes = make_axes(2, (9, 3.3))
    for ax, name, title in zip(axes, ("usage", "perplexity"), CODEBOOK.values(), strict=True):
        _dots(ax, uses, name, colors)
        means = [np.mean([getattr(use, name) for use in uses if use.size == size]) for size in sizes]
        ax.plot(sizes, means, color="#555555", linewidth=1.5, zorder=1)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.minorticks_off()
        ax.set(xlabel="codebook size K", title=title)
    axes[0].set_ylim(0, 1.03)
    axes[1].plot(sizes, sizes, color="#999999", linestyle=":", label="every code equally often")
    axes[1].set_yscale("log", base=2)
    axes[1].set_yticks(sizes, [f"{size:,}" for size in sizes])
    legend_above(figure)
    return to_png(figure)


def _dots(ax: "Axes", uses: Sequence[CodebookUse], name: str, colors: Colors) -> None:
    for label in dict.fromkeys(use.row.label for use in uses):
        mine = [use for use in uses if use.row.label == label]
        color = colors[mine[0].row.key]
        ax.plot([use.size for use in mine], [getattr(use, name) for use in mine], "o", color=color, label=label, zorder=2)


def codebook_table(uses: Sequence[CodebookUse], scale_label: str) -> Table:
    """The numbers of `codebook_size_figure`."""
    header = ("Variant", "K", "Seed", "Share of codes in use", "Perplexity")
    records: tuple[dict[str, Any], ...] = tuple(
        {"row": use.row.key, "size": use.size, "seed": use.seed, "usage": use.usage, "perplexity": use.perplexity} for use in uses
    )
    return Table(
        name="codebook",
        title=f"Codebook at the end of training, {scale_label}",
        caption="As last logged. Perplexity is exp of the entropy of code use: K when every code is used equally often.",
        header=header,
        rows=tuple((use.row.label, f"{use.size:,}", str(use.seed), f"{use.usage:.3f}", f"{use.perplexity:,.0f}") for use in uses),
        records=records,
    )
