"""lmms-eval's own functions beside ours, for the same inputs; and the recorder of vectors for machines without it.

`CHECKS` maps a name to (inputs drawn from a seed, ours). `oracles()` maps names to lmms-eval's function of those inputs; it
imports lmms-eval, which brings much along, so tests call it only where it can be imported. Recording, where it can:

    python -m tests.evaluators.lmms_eval_oracle

writes `vectors/understanding_lmms_eval_VERSION.json`. The variants named after older versions were recorded the same way
with those versions installed (with 0.7.3's `_default_template_yaml` files, which their wheels lack).
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluators.understanding.metrics import Item, ai2d, blink, chartqa, docvqa, hallusionbench, mme, mmmu, realworldqa
from tests.evaluators.metric_replies import TEXTS, Replies

VECTORS = Path(__file__).parent / "vectors"
RECORDED = {  # checks recorded from each version; all others are those of the newest
    "0.7.3": (
        "mmmu_letter", "mmmu_open", "mmmu_candidates", "hallusionbench", "mme", "mme_sums", "blink", "realworldqa",
        "realworldqa_letter", "ai2d", "anls", "chartqa",
    ),
    "0.7.2": ("mmmu_letter", "mmmu_open_collapsed", "blink_first_letter", "realworldqa"),
    "0.6.1": ("mmmu_letter", "mmmu_open_collapsed", "blink_first_letter", "realworldqa_exact"),
}  # fmt: skip
Inputs = tuple[Any, ...]


def _open_item(reply: str, answer: str) -> Item:
    return Item("k", answer, reply, {"question_type": "open", "options": []})


def _draw_letter(draw: Replies) -> Inputs:
    options = draw.options()
    return draw.reply(tuple(options)), options


def _ours_letter(reply: str, options: list[str]) -> str | None:
    return mmmu.letter(reply, dict(zip("ABCDE", options, strict=False)), loose=True)


def _draw_open(draw: Replies) -> Inputs:
    gold = draw.random.choice((*TEXTS, "['3', '4']", "24/7", "7", "0.05", "1200", "4")) or "x"
    return draw.reply((gold,)), gold


def _open(variant: str) -> Callable[..., float]:
    return lambda reply, answer: mmmu.score(_open_item(reply, answer)).correct[variant]


def _draw_realworldqa(draw: Replies) -> Inputs:
    gold = draw.random.choice(("A", "B", "C", "D", "b", "Downhill", "3", "12", "Yes", "No", "0"))
    return draw.random.choice((draw.near, lambda text: draw.reply((text, f"{text}."))))(gold), gold


def _realworldqa(variant: str) -> Callable[..., float]:
    return lambda reply, gold: realworldqa.score(Item("k", gold, reply, {"options": []})).correct[variant]


def _ours_hallusionbench(rows: list[dict[str, Any]]) -> list[float | None]:
    items = [Item(str(index), row["gt_answer"], row["reply"], row) for index, row in enumerate(rows)]
    metrics = hallusionbench.aggregate([hallusionbench.score(item) for item in items], items)
    return [metrics[f"lmms-eval/{name}"] for name in ("aAcc", "fAcc", "qAcc")]


def _ours_mme_sums(rows: list[dict[str, Any]]) -> list[float | None]:
    items = [Item(str(index), row["answer"], row["reply"], row) for index, row in enumerate(rows)]
    metrics = mme.aggregate([mme.score(item) for item in items], items)
    sums = ((metrics["lmms-eval/perception_of_2000"], 2000), (metrics["lmms-eval/cognition_of_800"], 800))
    return [share * maximum for share, maximum in sums if share is not None]


def _draw_ai2d(draw: Replies) -> Inputs:
    index = draw.random.randrange(4)
    form = draw.random.choice(("{}", "({})", "{}.", "{}. cat", " {}) ", "[{}]\n", "{}: cat", "\n{}.", "{} cat", "**{}**", "-{}."))
    letter = draw.random.choice("ABCDabcd" + 8 * "ABCD"[index])
    return draw.random.choice((form.format(letter), draw.reply())), index


def _ours_ai2d(reply: str, index: int) -> float:
    return ai2d.score(Item("k", str(index), reply, {"options": ["a", "b", "c", "d"]})).correct["lmms-eval"]


def _draw_anls(draw: Replies) -> Inputs:
    answers = [draw.random.choice((*TEXTS, "İstanbul straße", " two  words ")) for _ in range(draw.random.randint(1, 3))]
    return draw.near(answers[0]), answers


def _draw_chartqa(draw: Replies) -> Inputs:
    gold = draw.random.choice((draw.number, lambda: draw.random.choice(TEXTS)))()
    return draw.random.choice((draw.near, draw.about))(gold), gold


CHECKS: dict[str, tuple[Callable[[Replies], Inputs], Callable[..., Any]]] = {
    "mmmu_letter": (_draw_letter, _ours_letter),
    "mmmu_open": (_draw_open, _open("lmms-eval")),
    "mmmu_open_collapsed": (_draw_open, _open("lmms-eval-0.7.2")),
    "mmmu_candidates": (lambda draw: (draw.reply(),), lambda reply: sorted(map(repr, mmmu.open_candidates(reply)))),
    "hallusionbench": (lambda draw: (draw.rows(),), _ours_hallusionbench),
    "mme": (
        lambda draw: (draw.random.choice((draw.yes_or_no, draw.reply))(),),
        lambda reply: mme.lmms_eval_yes_no(reply) or "other",
    ),
    "mme_sums": (lambda draw: (draw.images(mme.PERCEPTION + mme.COGNITION),), _ours_mme_sums),
    "blink": (
        lambda draw: (draw.reply(), draw.random.randint(2, 5)),
        lambda reply, count: blink.stated_letter(reply, "ABCDE"[:count]) or "",
    ),
    "blink_first_letter": (lambda draw: (draw.reply(),), lambda reply: blink.first_letter(reply) or ""),
    "realworldqa": (_draw_realworldqa, _realworldqa("lmms-eval")),
    "realworldqa_exact": (_draw_realworldqa, _realworldqa("lmms-eval-0.6.1")),
    "realworldqa_letter": (lambda draw: (draw.reply(),), lambda reply: realworldqa.ranked_letter(reply) or ""),
    "ai2d": (_draw_ai2d, _ours_ai2d),
    "anls": (_draw_anls, lambda reply, answers: docvqa.score(Item("k", answers, reply)).correct["lmms-eval"]),
    "chartqa": (_draw_chartqa, chartqa.relaxed),
}


class _NoChoice:
    """In `random`'s place in the parsers: says None where they would guess."""

    @staticmethod
    def choice(_: Any) -> None:
        return None


def oracles() -> dict[str, Callable[..., Any]]:
    """lmms-eval's functions, of the version installed."""
    from lmms_eval.api.metrics import anls, exact_match_hf_evaluate
    from lmms_eval.tasks.ai2d.utils import MultiChoiceRegexFilter
    from lmms_eval.tasks.blink import utils as lmms_blink
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness
    from lmms_eval.tasks.hallusion_bench.evaluate_hb import hb_aggregation_result_intern
    from lmms_eval.tasks.mme.utils import mme_aggregate_results, mme_process_results, parse_pred_ans
    from lmms_eval.tasks.mmmu import utils as lmms_mmmu
    from lmms_eval.tasks.realworldqa.utils import realworldqa_process_results

    for name in (lmms_mmmu.__name__, "lmms_eval.tasks._task_utils.mmmu_mcq_utils"):
        if name in sys.modules:
            sys.modules[name].random = _NoChoice  # type: ignore[attr-defined]
    ai2d_filter = MultiChoiceRegexFilter(regex_pattern="([A-Z])\\.", group_select=0, ignore_case=True, ignore_punctuation=True)

    def mmmu_letter(reply: str, options: list[str]) -> Any:
        index2ans, choices = lmms_mmmu.get_multi_choice_info(options)
        return lmms_mmmu.parse_multi_choice_response(reply, choices, index2ans)

    def mmmu_open(reply: str, answer: str) -> float:
        doc = {"id": "validation_Art_1", "question_type": "open", "options": "[]", "answer": answer}
        sample = lmms_mmmu.mmmu_process_results(doc, [reply])["mmmu_acc"]
        return float(lmms_mmmu.evaluate_mmmu([sample])[1]["acc"])

    def hallusionbench_(rows: list[dict[str, Any]]) -> list[float]:
        data = [{**row, "model_prediction": row["reply"]} for row in rows]
        return [float(hb_aggregation_result_intern(data, name)) for name in ("aAcc", "fAcc", "qAcc")]

    def mme_sums(rows: list[dict[str, Any]]) -> list[float]:
        results = [mme_process_results(row, [row["reply"]]) for row in rows]
        return [
            mme_aggregate_results([one[key] for one in results if key in one])
            for key in ("mme_perception_score", "mme_cognition_score")
        ]

    def ai2d_(reply: str, index: int) -> float:
        [filtered] = ai2d_filter.apply([[reply]], [{}])
        settings = {"ignore_case": True, "ignore_punctuation": True}
        return float(exact_match_hf_evaluate([filtered.strip()], ["ABCD"[index]], **settings)["exact_match"])

    return {
        "mmmu_letter": mmmu_letter,
        "mmmu_open": mmmu_open,
        "mmmu_open_collapsed": mmmu_open,
        "mmmu_candidates": lambda reply: sorted(map(repr, lmms_mmmu.parse_open_response(reply))),
        "hallusionbench": hallusionbench_,
        "mme": parse_pred_ans,
        "mme_sums": mme_sums,
        "blink": lambda reply, count: lmms_blink._extract_answer_letter(reply, "ABCDE"[:count]),
        "blink_first_letter": lambda reply: lmms_blink._extract_answer_letter(reply),
        "realworldqa": lambda reply, gold: realworldqa_process_results({"answer": gold}, [reply])["exact_match"],
        "realworldqa_exact": lambda reply, gold: realworldqa_process_results({"answer": gold}, [reply])["exact_match"],
        "realworldqa_letter": lambda reply: _extract_mcq_answer()(reply, choices=["A", "B", "C", "D"]),
        "ai2d": ai2d_,
        "anls": lambda reply, answers: float(anls(answers, [reply])["anls"]),
        "chartqa": relaxed_correctness,
    }


def _extract_mcq_answer() -> Callable[..., str]:
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer  # not in 0.6

    return extract_mcq_answer  # type: ignore[no-any-return]


def main() -> None:
    """Records vectors: 120 draws of each check, a case a line; 6 of those that draw whole sets of rows."""
    release = version("lmms-eval")
    functions = oracles()
    cases = {}
    for name in RECORDED[release]:
        draw, count = Replies(7), 6 if name in ("hallusionbench", "mme_sums") else 120
        inputs = [CHECKS[name][0](draw) for _ in range(count)]
        cases[name] = [[list(one), functions[name](*one)] for one in inputs]
    source = f"lmms-eval {release} (PyPI, MIT): results of its functions for generated replies; see lmms_eval_oracle.py"
    lists = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in one) + "\n]"
        for name, one in cases.items()
    ]
    text = f'{{"source": {json.dumps(source)}, "cases": {{\n' + ",\n".join(lists) + "\n}}\n"
    (VECTORS / f"understanding_lmms_eval_{release}.json").write_text(text)


if __name__ == "__main__":
    main()
