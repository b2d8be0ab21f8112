"""A claim's verdict: what its comparison measures, whether that decides it, and whether its gates let it.

Each claim has two one-sided p-values, of "it does not hold" and of "it holds"; equivalence is two one-sided tests. Claims that
are reported together are corrected together: by Holm's procedure over all of them, at 2.5% a side (`decide_together`). Below
three seeds there is no verdict, only on which side the estimate lies: spread over training seeds is then hardly known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from ablations.claims import Claim, ClaimGate, ColumnsWon, Comparison, Difference, Equivalence, GainDifference, LeadBelow
from ablations.grid import AblationGrid
from ablations.registry import GRIDS
from reports.collect import RowScores, measured_by, without_size
from reports.paper_values import PAPER_TABLES
from reports.runs import Run
from reports.statistics import TAIL, ColumnItems, Interval, Wins, columns_won, contrast, holm
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import prerequisites
from rf_repro.config.scales import get_scale

MIN_SEEDS = 3
FEW = {1: "one seed", 2: "two seeds"}
DECIDED = ("reproduced", "not reproduced", "inconclusive", "not run")
SIDES = tuple(f"{side} with the {whose} ({few})" for whose in ("paper", "claim") for few in FEW.values()
              for side in ("agrees", "disagrees"))  # fmt: skip
VERDICTS = DECIDED + SIDES
Gates = Mapping[tuple[str, str, str], float]  # (config hash of a run, evaluation, metric) -> the lowest value over its seeds


@dataclass(frozen=True)
class ClaimResult:
    """`measured` is None when the claim was not tested, and `reason` says why; a gate that decides gives its reason too.

    `remark` adds to it in words. `measured.n` counts the items of all rows over the seeds.

    Attributes:
        p_fails, p_holds: one-sided p-values of the hypotheses that the claim does not hold, and that it does; corrected for the
            claims that were decided with it.
    """

    claim: Claim
    scale: str
    verdict: str  # of VERDICTS
    measured: Interval | Wins | None
    reason: str
    p_fails: float | None = None
    p_holds: float | None = None
    remark: str = ""
    title: str = ""  # of the claim's table

    @property
    def estimate(self) -> float | None:
        return self.measured.estimate if self.measured else None

    @property
    def low(self) -> float | None:
        return self.measured.low if self.measured else None

    @property
    def high(self) -> float | None:
        return self.measured.high if self.measured else None

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.measured.seeds if self.measured else ()

    @property
    def n(self) -> int:
        return self.measured.n if self.measured else 0

    @property
    def size(self) -> float | None:
        """The measured difference as a share of the paper's; None where the claim is not that there is one."""
        is_difference = isinstance(self.claim.comparison, Difference | GainDifference)
        if self.estimate is None or not is_difference or not is_published(self.claim):
            return None
        return self.estimate / published(self.claim)

    @property
    def unit(self) -> str:
        return self.claim.unit

    @property
    def rows(self) -> tuple[str, ...]:
        return self.claim.rows

    def to_dict(self) -> dict[str, Any]:
        """One entry of claims.json. `difference` is the measured number in the claim's unit: for counts, the columns won."""
        return {
            "id": self.claim.id,
            "table": self.claim.table,
            "statement": self.claim.statement,
            "verdict": self.verdict,
            "p_fails": self.p_fails,
            "p_holds": self.p_holds,
            "paper": published(self.claim) if is_published(self.claim) else None,
            "difference": self.estimate,
            "low": self.low,
            "high": self.high,
            "scale": self.scale,
            "seeds": list(self.seeds),
            "n": self.n,
        }


def judge(
    claim: Claim,
    scale: str,
    scores: Mapping[str, Mapping[str, RowScores]],
    gates: Gates,
    changes: Mapping[str, Any] | None = None,
    grids: Mapping[str, AblationGrid] = GRIDS,
) -> ClaimResult:
    """The verdict on a claim of any kind, as if it were alone.

    Args:
        scores: column key -> row key -> scores, of the claim's table at this scale, {} where it is left out; unused where the
            claim needs more than the scale's world can give.
        gates: what `gate_values` found in the runs.
        changes: dotted path -> value, made to the scale before every row.
        grids: the tables by name.
    """
    world = apply_overrides(get_scale(scale), changes or {}).data.world
    grid = grids[claim.table].in_world(world)
    claim = claim.in_world(world) if grid.real_columns or claim.needs else claim
    result = partial(ClaimResult, claim, scale, title=grid.title)
    if claim.needs:
        return result("not run", None, f"needs {claim.needs}")
    if not scores:
        return result("not run", None, f"{grid.title} is left out at this scale; its section says why")
    sides = [scores[column][row] for column in claim.columns for row in claim.rows]
    reasons = list(dict.fromkeys(f"{side.variant.label}: {side.reason}" for side in sides if side.reason))
    reasons = reasons or [text for column in claim.columns if (text := _unlike([scores[column][row] for row in claim.rows]))]
    if not reasons and not set.intersection(*(set(side.results) for side in sides)):
        reasons = [f"{' and '.join(grid.variant(row).label for row in claim.rows)} have no seed in common"]
    if reasons:
        return result("not run", None, "; ".join(reasons))
    measured = _measure(claim, grid, scores)
    barred = [text for gate in claim.gates if (text := _barred(gate, grid, scale, gates, changes))]
    if barred:
        return result("inconclusive", measured, "; ".join(barred))
    if len(measured.seeds) < MIN_SEEDS:
        side = "agrees" if holds(claim.comparison, measured.estimate) else "disagrees"
        whose = "paper" if is_published(claim) else "claim"
        return result(f"{side} with the {whose} ({FEW[len(measured.seeds)]})", measured, "")
    p_fails, p_holds = p_values(claim.comparison, measured)
    return result(_decided(p_fails, p_holds), measured, "", p_fails, p_holds)


def decide_together(results: Sequence[ClaimResult]) -> list[ClaimResult]:
    """The verdicts of claims that are reported together: the chance that any of those decided is wrong is at most 5%."""
    tested = [index for index, result in enumerate(results) if result.p_fails is not None]
    adjusted = (holm([cast("float", getattr(results[index], name)) for index in tested]) for name in ("p_fails", "p_holds"))
    decided = list(results)
    for index, p_fails, p_holds in zip(tested, *adjusted, strict=True):
        verdict, alone, reason = _decided(p_fails, p_holds), results[index].verdict, ""
        if verdict != alone:
            reason = f"alone it would be {alone}, but {len(tested)} claims are decided together"
        decided[index] = replace(results[index], verdict=verdict, p_fails=p_fails, p_holds=p_holds, reason=reason)
    return decided


def _decided(p_fails: float, p_holds: float) -> str:
    return "reproduced" if p_fails <= TAIL else "not reproduced" if p_holds <= TAIL else "inconclusive"


def p_values(comparison: Comparison, measured: Interval | Wins) -> tuple[float, float]:
    """One-sided p-values of "the claim does not hold" and of "it holds"."""
    if isinstance(comparison, ColumnsWon):
        assert isinstance(measured, Wins)
        return measured.fewer_than(comparison.minimum), measured.at_least(comparison.minimum)
    assert isinstance(measured, Interval)
    match comparison:
        case Difference() | GainDifference():
            return measured.not_above(comparison.minimum), measured.not_below(comparison.minimum)
        case Equivalence():
            bound = comparison.bound
            return (
                max(measured.not_above(-bound), measured.not_below(bound)),
                min(measured.not_above(bound), measured.not_below(-bound)),
            )
        case LeadBelow():
            return measured.not_below(comparison.bound), measured.not_above(comparison.bound)


def holds(comparison: Comparison, estimate: float) -> bool:
    """Whether a claim holds of an estimate, whatever its error."""
    match comparison:
        case Difference() | GainDifference():
            return estimate > comparison.minimum
        case Equivalence():
            return abs(estimate) <= comparison.bound
        case LeadBelow():
            return estimate < comparison.bound
        case ColumnsWon():
            return estimate >= comparison.minimum


def gate_values(runs: Sequence[Run]) -> Gates:
    """Every metric of every finished evaluation of these runs; of a run's seeds the lowest value stands."""
    found: dict[tuple[str, str, str], float] = {}
    for run in runs:
        for name in run.dir.eval_names():
            result = run.dir.eval_result(name)
            for metric, value in (result.metrics if result else {}).items():
                key = run.record.config_hash, name, metric
                if value is not None:
                    found[key] = min(value, found.get(key, value))
    return found


def is_published(claim: Claim) -> bool:
    """Whether the paper has a table for it; a claim of the user's own may have none."""
    return claim.table in PAPER_TABLES


def published(claim: Claim) -> float:
    """What `judge` measures, from the paper's numbers: a difference, or a count of columns."""
    columns = [sum(weight * printed[row] for row, weight in claim.comparison.weights.items()) for printed in _printed(claim)]
    if isinstance(claim.comparison, ColumnsWon):
        return sum(difference > 0 for difference in columns)
    return sum(columns) / len(columns)


def published_text(claim: Claim) -> str:
    """What the paper printed for it, e.g. `0.76 against 0.25 (+0.51)`; a dash where it has no such table."""
    if not is_published(claim):
        return "–"
    difference, digits = published(claim), PAPER_TABLES[claim.table].digits
    if isinstance(claim.comparison, ColumnsWon):
        return f"{difference:.0f} of {len(claim.columns)} columns"
    columns = _printed(claim)
    means = [sum(printed[row] for printed in columns) / len(columns) for row in claim.rows]
    if isinstance(claim.comparison, GainDifference):
        gains = means[0] - means[1], means[2] - means[3]
        return f"gains {gains[0]:+.{digits}f} and {gains[1]:+.{digits}f} ({difference:+.{digits}f})"
    return f"{means[0]:.{digits}f} against {means[1]:.{digits}f} ({difference:+.{digits}f})"


def _printed(claim: Claim) -> list[dict[str, float]]:
    """Of each column of a claim: row key -> published value."""
    paper = PAPER_TABLES[claim.table]
    return [{row: value for row in claim.rows if (value := paper.value(row, column)) is not None} for column in claim.columns]


def _measure(claim: Claim, grid: AblationGrid, scores: Mapping[str, Mapping[str, RowScores]]) -> Interval | Wins:
    by_key = {column.key: column for column in grid.columns}
    columns = [
        ColumnItems({row: score.items for row, score in scores[key].items() if row in claim.rows or not score.is_fixed},
                    by_key[key].tasks, by_key[key].cluster)
        for key in claim.columns
    ]  # fmt: skip
    if isinstance(claim.comparison, ColumnsWon):
        return columns_won(columns, claim.comparison.better, claim.comparison.worse)
    measured = contrast(columns, claim.comparison.weights)
    sides = [(scores[key][row], by_key[key].tasks) for key in claim.columns for row in claim.rows]
    again = sum(_scored(side, tasks) * (len(measured.seeds) - 1) for side, tasks in sides if side.is_fixed)
    return replace(measured, n=measured.n - again)


def _scored(side: RowScores, tasks: Sequence[str]) -> int:
    """Items of a row's first record that were scored."""
    items = next(iter(side.items.values()))
    return sum(item["tag"] in tasks and item["correct"] is not None for item in items)


def _unlike(sides: Sequence[RowScores]) -> str:
    """Why scores cannot be compared: they were measured in several ways; empty where in one. Sizes are the models' own."""
    found: dict[str, str] = {}  # protocol -> whose
    for side in sides:
        for result in side.results.values():
            found.setdefault(without_size(measured_by(result)), side.variant.label)
    listed = "; ".join(f"{protocol} of {label}" for protocol, label in found.items())
    return f"protocols differ ({listed}); score both with one" if len(found) > 1 else ""


def _barred(gate: ClaimGate, grid: AblationGrid, scale: str, gates: Gates, changes: Mapping[str, Any] | None) -> str:
    """Why the gate keeps the claim from being decided; empty when it does not."""
    row = grid.variant(gate.row)
    config = grid.config(row, apply_overrides(get_scale(scale), changes or {}))
    started = next((run for run in prerequisites(config, row.key) if run.kind == gate.kind), None)
    if started is None:
        return ""
    what = f"gate of {row.label}, {gate.metric} of {gate.evaluation} in its {started.name}"
    value = gates.get((started.config.result_hash(), gate.evaluation, gate.metric))
    if value is None:
        return f"{what}: not measured"
    return "" if value >= gate.minimum else f"{what}: {value:.3f}, at least {gate.minimum:.2f} needed"
