"""Gates: what must hold before a table means anything (can the detector see, do the codes carry shape and colour, ...)."""

from dataclasses import dataclass

from reports.collect import GridRuns, Run
from rf_repro.core.records import EvalResult


@dataclass(frozen=True)
class Gate:
    """`metric` of `evals/<evaluation>.json` should be at least `minimum`; None: shown for comparison only.

    `shared` gates live in a stage that all variants share, the others in the runs of single variants.
    """

    label: str
    evaluation: str
    metric: str
    minimum: float | None
    shared: bool


# Thresholds are assumed: below them a `tiny` run could not show the paper's ordering.
GATES = (
    Gate("Detector on rendered images (ground truth)", "geneval-ground-truth", "overall", 0.98, shared=True),
    Gate("Detector on rendered images under mismatched prompts", "geneval-mismatched", "overall", None, shared=True),
    Gate("Shape from codes, linear probe", "codebook-probe", "shape", 0.85, shared=False),
    Gate("Colour from codes, linear probe", "codebook-probe", "color", 0.95, shared=False),
    Gate("GenEval with ground-truth R tokens", "geneval-ground-truth-representation", "overall", 0.70, shared=False),
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


def measure_gates(runs: GridRuns) -> list[GateResult]:
    """Every gate in every run that has its evaluation. A gate nobody measured is absent: the table says so."""
    results = []
    for gate in GATES:
        for seeds in (runs.shared if gate.shared else runs.rows).values():
            for run in seeds.values():
                result = run.dir.eval_result(gate.evaluation)
                if result is not None:
                    results.append(GateResult(gate, run, result))
    return results
