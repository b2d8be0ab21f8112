"""Our parsers give what VLMEvalKit's, MMMU's, MME's and BAGEL's give: recorded vectors, whose file names the sources."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from evaluators.understanding.metrics import Item, chartqa, docvqa, hallusionbench, mme, mmmu
from evaluators.understanding.metrics.mcq import vlmevalkit_letter
from evaluators.understanding.metrics.yesno import vlmevalkit_yes_no
from tests.evaluators.lmms_eval_oracle import CHECKS as LMMS_EVAL
from tests.evaluators.lmms_eval_oracle import VECTORS, Inputs
from tests.evaluators.metric_replies import Replies


def _lettered(options: list[str]) -> dict[str, str]:
    return dict(zip("ABCDE", options, strict=False))


def _open(reply: str, answer: str) -> float:
    return mmmu.score(Item("k", answer, reply, {"question_type": "open", "options": []})).correct["vlmevalkit"]


def _hallusionbench(rows: list[dict[str, Any]]) -> list[float | None]:
    items = [Item(str(index), row["gt_answer"], row["reply"], row) for index, row in enumerate(rows)]
    metrics = hallusionbench.aggregate([hallusionbench.score(item) for item in items], items)
    return [metrics[f"vlmevalkit/{name}"] for name in ("aAcc", "fAcc", "qAcc")]


def _yes_or_no(draw: Replies) -> Inputs:
    return (draw.random.choice((draw.yes_or_no, draw.reply))(),)


CHECKS: dict[str, tuple[Callable[[Replies], Inputs], Callable[..., Any]]] = {
    "vlmevalkit_letter": (LMMS_EVAL["mmmu_letter"][0], lambda reply, options: vlmevalkit_letter(reply, _lettered(options))),
    "vlmevalkit_open": (LMMS_EVAL["mmmu_open"][0], _open),
    "vlmevalkit_yes_no": (_yes_or_no, vlmevalkit_yes_no),
    "vlmevalkit_hallusionbench": (LMMS_EVAL["hallusionbench"][0], _hallusionbench),
    "vlmevalkit_anls": (
        LMMS_EVAL["anls"][0],
        lambda reply, answers: docvqa.score(Item("k", answers, reply)).correct["vlmevalkit-0a04a1d"],
    ),
    "vlmevalkit_chartqa": (
        LMMS_EVAL["chartqa"][0],
        lambda reply, gold: bool(chartqa.score(Item("k", gold, reply)).correct["vlmevalkit"]),
    ),
    "official_mmmu_letter": (LMMS_EVAL["mmmu_letter"][0], lambda reply, options: mmmu.letter(reply, _lettered(options))),
    "bagel_mmmu": (LMMS_EVAL["mmmu_letter"][0], lambda reply, options: mmmu.bagel_letter(reply, _lettered(options))),
    "official_mme": (_yes_or_no, lambda reply: mme.score(Item("k", "yes", reply)).parsed["official"]),
    "bagel_mme": (_yes_or_no, lambda reply: mme.score(Item("k", "yes", reply)).parsed["bagel"]),
}


@pytest.mark.parametrize("name", CHECKS)
def test_recorded(name: str) -> None:
    cases = json.loads((VECTORS / "understanding_references.json").read_text())["cases"][name]
    ours = CHECKS[name][1]
    assert len(cases) >= 6
    for inputs, theirs in cases:
        assert ours(*inputs) == (pytest.approx(theirs) if isinstance(theirs, float | list) else theirs), inputs


@pytest.mark.parametrize("name", CHECKS)
def test_vectors_are_of_many_results(name: str) -> None:
    """A parser that always says the same would not pass."""
    cases = json.loads((VECTORS / "understanding_references.json").read_text())["cases"][name]
    results = [json.dumps(theirs) for _, theirs in cases]
    assert max(map(results.count, results)) < 0.9 * len(results)
