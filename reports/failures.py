"""Where images fail, beside the pictures: with the true images' representation, without any object, with a broken one."""

from reports.collect import GridRuns
from reports.runs import Run
from reports.tables import Table, scale_label

# (heading, evaluation, metric)
SHARES = (
    ("sampled", "geneval", "overall"),
    ("from true images' tokens", "geneval-ground-truth-representation", "overall"),
    ("no object", "objects", "no_object"),
    ("a broken object", "objects", "broken_object"),
)


def failures_table(runs: GridRuns) -> Table | None:
    """Means over seeds; None where no run has counted its objects."""
    rows, records = [], []
    for variant in runs.grid.rows:
        seeds = runs.rows[variant.key]
        means = {heading: _mean(list(seeds.values()), name, metric) for heading, name, metric in SHARES}
        rows.append((variant.label, *("–" if mean is None else f"{mean:.3f}" for mean in means.values())))
        records += [
            {"row": variant.key, "evaluation": name, "metric": metric, "measured": means[heading],
             "seeds": " ".join(str(seed) for seed, run in seeds.items() if name in run.results)}
            for heading, name, metric in SHARES
        ]  # fmt: skip
    if not any(record["evaluation"] == "objects" and record["measured"] is not None for record in records):
        return None
    return Table(
        name=f"{runs.grid.name}-failures",
        title=f"Where images fail, {scale_label(runs.scale, runs.configs[runs.grid.base])}",
        caption="GenEval of the samples, and of samples whose representation tokens are the true images' (each assigned among "
        "training images, as in training); then the shares of samples with no object at all and with a broken one, whatever "
        "was asked for: the paper's Figure 4 as a number. Means over seeds.",
        header=("Variant", *(heading for heading, _, _ in SHARES)),
        rows=tuple(rows),
        records=tuple(records),
        printed=False,
    )


def _mean(runs: list[Run], name: str, metric: str) -> float | None:
    values = [value for run in runs if name in run.results and (value := run.results[name].metrics.get(metric)) is not None]
    return sum(values) / len(values) if values else None
