"""The benchmarks, one small unit each."""

from evaluators.understanding.benchmark import Benchmark
from evaluators.understanding.benchmarks import ai2d, blink, chartqa, docvqa, hallusionbench, mme, mmmu, realworldqa
from rf_repro.core.errors import UserError

PAPER = (mmmu.MMMU, hallusionbench.HALLUSIONBENCH, mme.MME, blink.BLINK, realworldqa.REALWORLDQA, ai2d.AI2D, docvqa.DOCVQA,
         chartqa.CHARTQA)  # fmt: skip
"""Those of Table 2, in its order: what `all` means."""

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*PAPER, ai2d.AI2D_MASK)}


def named(names: str) -> list[Benchmark]:
    """The benchmarks of a list separated by commas, or `all` of the paper.

    Raises:
        UserError: one is unknown or named twice.
    """
    if names == "all":
        return list(PAPER)
    chosen = names.split(",")
    for name in chosen:
        if name not in BENCHMARKS:
            raise UserError(f"benchmark {name!r}: unknown; choose from {', '.join(BENCHMARKS)}, or all")
        if chosen.count(name) > 1:
            raise UserError(f"benchmark {name!r}: is named twice in {names}")
    return [BENCHMARKS[name] for name in chosen]
