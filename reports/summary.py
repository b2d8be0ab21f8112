"""A plan's results for the terminal: the measured scores of its runs, and the report's verdicts on its tables."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ablations.grid import AblationGrid
from rf_repro.config.prerequisites import run_name
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.run_dir import RunDir


def summary(
    base: ExperimentConfig, runs: Sequence[RunDir], tables: Sequence[AblationGrid], claims: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Its lines.

    Args:
        base: the scale's config, with what was changed before every row.
        tables: with the columns of the runs' world.
        claims: of the report's claims.json, in whichever tables.
    """
    records = [(run, run.record()) for run in runs]
    lines = []
    for table in tables:
        lines += ["", f"{table.title}, scale {base.scale}: {table.caption}"]
        first = max(16, *(len(row.label) + 2 for row in table.rows))
        second = max(10, *(len(column.label) + 2 for column in table.columns))
        for row in table.rows:
            name = run_name(row.run_key(base), table.schedule(base))
            for column in table.columns:
                found = [run.eval_result(column.evaluation) for run, record in records if record.variant == name]
                scores = [score for result in found if result and (score := result.metrics.get(column.metric)) is not None]
                text = f"{mean(scores):.3f} ({', '.join(f'{score:.3f}' for score in scores)} by seed)" if scores else "not run"
                lines.append(f"  {row.label:<{first}}{column.label:<{second}}{text}")
    names = {table.name for table in tables}
    for claim in claims:
        if claim["table"] in names:
            measured = ""
            if claim["difference"] is not None:
                measured = f": {claim['difference']:+.3f}, 95% interval {claim['low']:+.3f} to {claim['high']:+.3f}"
            lines.append(f"  {claim['statement']} ({claim['table']}): {claim['verdict']}{measured}")
    return lines
