"""Metrics over whole benchmarks: known scores of perfect and wrong answerers, hand-made cases, and sums by brute force."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evaluators.understanding.metrics import Item, ai2d, blink, chartqa, docvqa, hallusionbench, mme, mmmu, realworldqa
from rf_repro.core.errors import UserError

MODULES = (mmmu, hallusionbench, mme, blink, realworldqa, ai2d, docvqa, chartqa)
OPTIONS = ["red", "green", "blue", "white"]


def _mmmu() -> list[Item]:
    choice = {"question_type": "multiple-choice", "options": OPTIONS}
    letters = [Item(f"validation_{subject}_{n}", "ABCD"[n], "", {**choice, "subject": subject})
               for subject in ("Art", "Finance", "Math") for n in range(4)]  # fmt: skip
    return [*letters, Item("validation_Math_9", "1.5", "", {"question_type": "open", "options": [], "subject": "Math"})]


def _hallusionbench() -> list[Item]:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    rows = [("VD", "ocr", "0", figure, question) for figure in "012" for question in "01"]
    rows += [("VS", "chart", "1", figure, question) for figure in "12" for question in "01"]
    return [Item("_".join(row), "01"[index % 2], "", dict(zip(names, row, strict=True))) for index, row in enumerate(rows)]


def _mme() -> list[Item]:
    return [
        Item(f"{task}/{image}/{answer}", answer, "", {"category": task, "question_id": f"{task}/{image}.png"})
        for task in mme.SIZES for image in range(2) for answer in ("Yes", "No")
    ]  # fmt: skip


ITEMS: dict[Any, Callable[[], list[Item]]] = {
    mmmu: _mmmu,
    hallusionbench: _hallusionbench,
    mme: _mme,
    blink: lambda: [Item(f"{task}_{n}", "(ABCD)"[0] + "ABCD"[n] + ")", "", {"options": OPTIONS, "sub_task": task})
                    for task in ("Counting", "Jigsaw") for n in range(4)],
    realworldqa: lambda: [Item(gold, gold, "", {"options": OPTIONS if gold in "ABCD" else []}) for gold in "ABCD37"],
    ai2d: lambda: [Item(str(n), str(n % 4), "", {"options": OPTIONS}) for n in range(8)],
    docvqa: lambda: [Item(str(n), [f"answer {n}", f"the answer {n}"], "") for n in range(5)],
    chartqa: lambda: [Item(str(n), gold, "", {"type": kind}) for n, (gold, kind) in enumerate(
        (("12", "human_test"), ("Yes", "human_test"), ("3.5", "augmented_test"), ("2010", "augmented_test")))],
}  # fmt: skip


def gold_reply(module: Any, item: Item) -> str:
    """What a perfect answerer says, in the form asked for."""
    if module is hallusionbench:
        return "Yes" if item.answer == "1" else "No"
    if module is ai2d:
        return "ABCD"[int(item.answer)]
    return str(item.answer[0]) if module is docvqa else str(item.answer).strip("()")


def wrong_reply(module: Any, item: Item) -> str:
    """What a wrong answerer says: well-formed, never right."""
    right = gold_reply(module, item)
    if right in ("Yes", "No") and module is not chartqa:
        return "No" if right == "Yes" else "Yes"
    return "BCDA"["ABCD".index(right)] if right in list("ABCD") else "quite another thing"


def metrics(module: Any, items: list[Item], reply: Callable[[Any, Item], str]) -> dict[str, float | None]:
    answered = [replace(item, reply=reply(module, item)) for item in items]
    return dict(module.aggregate([module.score(item) for item in answered], answered))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_perfect_and_wrong_answerers(module: Any) -> None:
    items = ITEMS[module]()
    perfect, wrong = metrics(module, items, gold_reply), metrics(module, items, wrong_reply)
    assert set(perfect) == set(wrong)
    assert perfect[module.PAPER_METRIC] == 1
    assert wrong[module.PAPER_METRIC] == 0
    # What a perfect answerer cannot get: open questions where a variant cannot read them, and the judge's metrics.
    blind = {
        mmmu: lambda name: name.startswith("lmms-eval-0.7.2"),
        realworldqa: lambda name: name.startswith("vlmevalkit"),
        hallusionbench: lambda name: "judged" in name,
    }.get(module, lambda name: False)
    for name, value in perfect.items():
        if not blind(name) and "judged" not in name and value is not None and not name.startswith("parse_failure_rate/"):
            assert (value, wrong[name]) == (1, 0), name
    rates = {name for name in perfect if name.startswith("parse_failure_rate/")}
    assert rates == {f"parse_failure_rate/{variant}" for variant in module.VARIANTS}
    assert perfect[f"parse_failure_rate/{module.PAPER_VARIANT}"] == 0


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_variants_are_documented_and_complete(module: Any) -> None:
    items = ITEMS[module]()
    for variant in module.VARIANTS:
        assert variant in module.__doc__
    assert module.PAPER_VARIANT in module.VARIANTS
    assert module.PAPER_METRIC.startswith(f"{module.PAPER_VARIANT}/")
    for item in items:
        one = module.score(replace(item, reply="The answer is (B)."))
        assert set(one.correct) == set(one.parsed) == set(module.VARIANTS)
        assert all(0 <= value <= 1 for value in one.correct.values())
    empty = module.aggregate([], [])
    assert empty[module.PAPER_METRIC] is None
    with pytest.raises(UserError, match="same questions"):
        module.aggregate([module.score(items[0])], items[1:2])


def test_parse_failures_are_counted() -> None:
    items = _mmmu()
    found = metrics(mmmu, items, lambda _, item: "no idea" if item.answer in ("A", "B") else gold_reply(mmmu, item))
    assert found["parse_failure_rate/official"] == found["parse_failure_rate/official-seeded"] == 6 / 13
    assert found["official/accuracy"] == 7 / 13
    assert found["official-seeded/accuracy"] is not None
    assert found["official-seeded/accuracy"] >= 7 / 13
    assert found["official/multiple_choice"] == 0.5
    assert found["official/open"] == 1
    assert found["lmms-eval-0.7.2/open"] == 0
    assert (found["official/art_and_design"], found["official/science"]) == (0.5, 3 / 5)
    assert found["official/health_and_medicine"] is None


def test_mme_sums_against_the_definition() -> None:
    """Accuracy + accuracy over images, both of 100, summed over tasks: 2000 and 800 at most. Sizes differ between tasks."""
    items = [item for item in _mme() if not (item.fields["category"] == "OCR" and "/1.png" in item.fields["question_id"])]
    wrong = {"OCR/0/No", "count/0/No", "count/1/Yes", "code_reasoning/0/Yes", "code_reasoning/0/No"}
    found = metrics(mme, items, lambda module, item: (wrong_reply if item.key in wrong else gold_reply)(module, item))
    # OCR: 1 of 2, 0 of 1 images; count: 2 of 4, 0 of 2; code: 2 of 4, 1 of 2; the others all.
    perception = 8 * 200 + (50 + 0) + (50 + 0)
    cognition = 3 * 200 + (50 + 50)
    assert found["lmms-eval/perception_of_2000"] == pytest.approx(perception / 2000)
    assert found["lmms-eval/cognition_of_800"] == pytest.approx(cognition / 800)
    assert found["lmms-eval/sum_of_2800"] == pytest.approx((perception + cognition) / 2800)
    assert found["lmms-eval/question_accuracy"] == (54 - 5) / 54
    assert found["lmms-eval/macro_accuracy"] == pytest.approx((11 + 3 * 0.5) / 14)
    assert found["lmms-eval/accuracy_plus"] == (27 - 4) / 27
    assert found["lmms-eval/count"] == 0.5


def test_mme_of_a_part_has_no_sums() -> None:
    items = _mme()
    without_a_task = metrics(mme, [item for item in items if item.fields["category"] != "scene"], gold_reply)
    assert without_a_task["lmms-eval/perception_of_2000"] is without_a_task["lmms-eval/sum_of_2800"] is None
    assert without_a_task["lmms-eval/macro_accuracy"] is None
    assert without_a_task["lmms-eval/cognition_of_800"] == 1
    without_a_question = metrics(mme, items[1:], gold_reply)
    assert without_a_question["lmms-eval/cognition_of_800"] is without_a_question["lmms-eval/accuracy_plus"] is None
    assert without_a_question["lmms-eval/question_accuracy"] == 1
    assert sum(mme.SIZES.values()) == 2374
    assert set(mme.SIZES) == {*mme.PERCEPTION, *mme.COGNITION}


def test_hallusionbench_groups() -> None:
    """One mistake costs one question, its figure, and its question on all figures."""
    items = _hallusionbench()
    found = metrics(hallusionbench, items, lambda module, item: (wrong_reply if item is items[0] else gold_reply)(module, item))
    assert found["vlmevalkit/aAcc"] == found["lmms-eval/aAcc"] == 9 / 10
    assert found["vlmevalkit/fAcc"] == 4 / 5
    assert found["vlmevalkit/qAcc"] == 3 / 4
    assert found["vlmevalkit/average"] == pytest.approx((0.9 + 0.8 + 0.75) / 3)
    assert found["judged/aAcc"] is found["parse_failure_rate/judged"] is found["judged/average"] is None


def test_hallusionbench_vlmevalkit_merges_categories_of_one_subcategory() -> None:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    items = [
        Item(category, "1", reply, dict(zip(names, (category, "ocr", "0", "1", "0"), strict=True)))
        for category, reply in (("VD", "Yes"), ("VS", "No"))
    ]
    found = hallusionbench.aggregate([hallusionbench.score(item) for item in items], items)
    assert (found["lmms-eval/fAcc"], found["vlmevalkit/fAcc"]) == (0.5, 0)


def test_hallusionbench_judged_leaves_questions_without_a_figure_out_of_facc() -> None:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    rows = [
        ("VS", "map", "0", "0", "0", "incorrect"),
        ("VS", "map", "0", "1", "0", "correct"),
        ("VD", "map", "0", "0", "0", "unclear"),
    ]
    items = [Item("_".join(row), "1", "?", {**dict(zip(names, row, strict=False)), "judge_reply": row[-1]}) for row in rows]
    found = hallusionbench.aggregate([hallusionbench.score(item) for item in items], items)
    assert (found["judged/aAcc"], found["judged/fAcc"], found["judged/qAcc"]) == (1 / 3, 1 / 2, 0)
    assert found["parse_failure_rate/judged"] == 1 / 3


def test_blink_micro_and_macro() -> None:
    items = [Item(f"a{n}", "A", "", {"options": OPTIONS, "sub_task": "Counting"}) for n in range(3)]
    items.append(Item("b", "A", "", {"options": OPTIONS, "sub_task": "Jigsaw"}))
    found = metrics(blink, items, lambda _, item: "A" if item.fields["sub_task"] == "Jigsaw" else "B")
    assert (found["vlmevalkit/accuracy"], found["vlmevalkit/macro_accuracy"]) == (0.25, 0.5)
    assert (found["lmms-eval/Counting"], found["lmms-eval/Jigsaw"]) == (0, 1)


def test_chartqa_and_realworldqa_parts() -> None:
    found = metrics(chartqa, ITEMS[chartqa](), lambda _, item: "12" if item.answer == "12" else "2000")
    assert [found[f"lmms-eval/relaxed_{part}"] for part in ("overall", "human", "augmented")] == [0.5, 0.5, 0.5]
    found = metrics(realworldqa, ITEMS[realworldqa](), lambda _, item: "A")
    assert [found[f"lmms-eval/{name}"] for name in ("accuracy", "multiple_choice", "open")] == [1 / 6, 1 / 4, 0]


def test_docvqa_is_the_mean_of_similarities() -> None:
    items = [Item("1", ["abcd"], "abcx"), Item("2", ["abcd"], "zzzz"), Item("3", ["abcd"], "ABCD")]
    assert docvqa.aggregate([docvqa.score(item) for item in items], items)["lmms-eval/anls"] == pytest.approx(1.75 / 3)
