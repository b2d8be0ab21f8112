"""The columns of Table 2: on photographs the paper's own benchmarks; in the scenes world types of its question suite, each
printed under its own name.

`MIRRORS` says beside which of the paper's benchmarks a type stands. The kinship is loose: the suite asks one-word questions
about small drawings, the benchmarks ask about photographs, diagrams and documents. It tells which published order of variants
a measured order is compared with; no score here is a score on MMMU or any other of them.
"""

from ablations.grid import Column

MIRRORS = {  # question type -> the paper's benchmark, in Table 2's order
    "object": "MMMU",  # what is shown
    "existence": "HalluBench",  # saying no to what is absent
    "color": "MME*",  # a perception question
    "compare": "BLINK",  # two parts of an image held against each other
    "position": "RealWorldQA",  # where things are
    "count": "AI2D",  # the parts of a drawing
    "word": "DocVQA",  # reading letters
    "chart": "ChartQA",  # reading values off bars
}

NAMES = ("mmmu", "hallusionbench", "mme", "blink", "realworldqa", "ai2d", "docvqa", "chartqa")  # as `rf-repro` has them


def benchmark_evaluation(name: str) -> str:
    """Under which name a run keeps its result on a benchmark."""
    return f"understanding-{name}"


BENCHMARKS: dict[str, Column] = {  # the paper's columns; `paper` of a record is the metric that the paper's number is taken to be
    title: Column(title, title, benchmark_evaluation(name), "paper", (name,), cluster="cluster")
    for name, title in zip(NAMES, MIRRORS.values(), strict=True)
}

QUESTIONS: dict[str, Column] = {
    kind: Column(kind, f"Scenes questions: {kind}", "questions", kind, (kind,), cluster="question_id") for kind in MIRRORS
}
