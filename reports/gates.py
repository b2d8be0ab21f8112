"""Gates: what must hold before a table means anything (can the detector see, do the codes carry shape and colour, ...)."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.runs import Run
from reports.tables import Table
from rf_repro.core.records import EvalResult
from rf_repro.worlds import World


@dataclass(frozen=True)
class Gate:
    """`metric` of `evals/<evaluation>.json` should be at least `minimum`; None: shown for comparison only."""

    label: str
    evaluation: str
    metric: str
    minimum: float | None


# Thresholds are assumed: below them a `tiny` run could not show the paper's ordering.
GATES = (
    Gate("Detector on rendered images (ground truth)", "geneval-ground-truth", "overall", 0.98),
    Gate("Detector on rendered images under mismatched prompts", "geneval-mismatched", "overall", None),
    Gate("Detector on VAE reconstructions", "geneval-vae-reconstruction", "overall", 0.97),
    Gate("Shape from the encoder's features, linear probe", "encoder-probe", "shape", 0.85),
    Gate("Colour from the encoder's features, linear probe", "encoder-probe", "color", 0.95),
    Gate("Shape from codes, linear probe", "codebook-probe", "shape", 0.85),
    Gate("Colour from codes, linear probe", "codebook-probe", "color", 0.95),
    Gate("GenEval with ground-truth R tokens", "geneval-ground-truth-representation", "overall", 0.70),
)


@dataclass(frozen=True)
class GateResult:
    """One gate in one run. `value` None: not measured, see `reason`. `passed` None: nothing to pass, or not measured."""

    gate: Gate
    run: Run
    result: EvalResult

    @property
    def value(self) -> float | None:
        return self.result.metrics.get(self.gate.metric)

    @property
    def reason(self) -> str:
        return "" if self.value is not None else self.result.missing.get(self.gate.metric, "the record gives no reason")

    @property
    def passed(self) -> bool | None:
        return None if self.gate.minimum is None or self.value is None else self.value >= self.gate.minimum


def measure_gates(runs: Sequence[Run]) -> list[GateResult]:
    """Every gate in every run that has its evaluation. A gate nobody measured is absent: the table says so."""
    return [
        GateResult(gate, run, run.results[gate.evaluation]) for gate in GATES for run in runs if gate.evaluation in run.results
    ]


def gates_table(results: Sequence[GateResult], scale_label: str, world: World) -> Table:
    """What must hold before the tables mean anything: a row a gate and run name, seeds side by side."""
    groups: dict[tuple[str, str, str], list[GateResult]] = {}
    for item in results:
        groups.setdefault((item.gate.label, item.run.record.variant, item.run.record.config_hash), []).append(item)
    rows = [
        (
            label,
            f"{variant}/{digest[:12]}, seed {', '.join(str(item.run.record.seed) for item in items)}",
            ", ".join(f"not measured: {item.reason}" if item.value is None else f"{item.value:.3f}" for item in items),
            ", ".join(dict.fromkeys(f"{item.result.n:,}" for item in items)),
            _needed(items[0].gate),
            _status(items),
        )
        for (label, variant, digest), items in groups.items()
    ]
    not_run = "not run" if world.scores_itself else "not run: a gate of the scenes world"
    seen = {item.gate.label for item in results}
    rows += [(gate.label, "none", not_run, "0", _needed(gate), "") for gate in GATES if gate.label not in seen]
    return Table(
        name="gates",
        title=f"Gates, {scale_label}",
        caption="Conditions on the evaluator, the encoder, the VAE and the codes without which a row would say little.",
        header=("Gate", "Run", "Measured", "Items", "Needed", "Status"),
        rows=tuple(rows),
        records=tuple(
            {"gate": item.gate.label, "run": item.run.name, "evaluation": item.gate.evaluation, "metric": item.gate.metric,
             "value": item.value, "n": item.result.n, "minimum": item.gate.minimum, "passed": item.passed}
            for item in results
        ),
        notes=("The thresholds are this project's, set for scale tiny.",),
    )  # fmt: skip


def _needed(gate: Gate) -> str:
    return "for comparison" if gate.minimum is None else f"≥ {gate.minimum:.2f}"


def _status(items: Sequence[GateResult]) -> str:
    """`pass` when every run passed, `below` when one did not; empty with nothing to pass or a run not measured."""
    passed = [item.passed for item in items]
    return "below" if False in passed else "pass" if all(passed) else ""
