"""Where implementations read one reply differently: each difference by example, with the variants' names."""

from typing import Any

import pytest

from evaluators.understanding.metrics import Item, ai2d, blink, chartqa, docvqa, hallusionbench, mme, mmmu, realworldqa
from evaluators.understanding.metrics.common import seeded_choice
from rf_repro.core.errors import UserError

OPTIONS = ["a red car", "a blue car", "no car", "two dogs"]


def parsed(module: Any, reply: str, answer: Any = "B", **fields: Any) -> dict[str, str | None]:
    return dict(module.score(Item("validation_Art_1", answer, reply, fields)).parsed)


def correct(module: Any, reply: str, answer: Any = "B", **fields: Any) -> dict[str, float]:
    return dict(module.score(Item("validation_Art_1", answer, reply, fields)).correct)


@pytest.mark.parametrize(
    ("reply", "official", "lmms_eval", "vlmevalkit", "bagel"),
    [
        ("B", "B", "B", "B", "B"),
        ("B.", "B", "B", "B", "B"),
        ("(B) a blue car", "B", "B", "B", "B"),
        ("(B)", "B", "B", "B", None),  # BAGEL's first character is the bracket
        ("The answer is (A), not (B)", "B", "B", None, None),  # the last; VLMEvalKit: two letters, and "is (" is no statement
        ("DNA is", None, "A", None, "D"),  # lmms-eval needs no space before the letter; BAGEL takes the first character
        ("see A.x", None, "A", "A", None),  # lmms-eval's third try, "A."; VLMEvalKit: marks part words
        ("it seems to me to be a BLUE car", "B", "B", "B", None),  # an option's text beyond five words; BAGEL minds case
        ("a blue car", None, None, "B", "B"),  # five words or fewer: texts are not looked for
        ("b", None, None, None, None),
        ("I see A and then much more follows it here", "A", "A", None, None),  # VLMEvalKit: among the last four words
        ("The answer is b for I think so", None, None, "B", None),  # VLMEvalKit's statement, in either case
        ("", None, None, None, None),
    ],
)
def test_mmmu_letters(reply: str, official: Any, lmms_eval: Any, vlmevalkit: Any, bagel: Any) -> None:
    found = parsed(mmmu, reply, question_type="multiple-choice", options=OPTIONS)
    assert (found["official"], found["lmms-eval"], found["vlmevalkit"], found["bagel"]) == (
        official,
        lmms_eval,
        vlmevalkit,
        bagel,
    )
    assert found["lmms-eval-0.7.2"] == found["lmms-eval"]
    assert {found["official-seeded"], found["official"]} == {official}


def test_mmmu_ties_between_word_ends_go_to_the_first_option() -> None:
    """lmms-eval finds "B " and "A " at the ends of words, but looks for " B " and " A " to see which is last."""
    assert mmmu.letter("lab B2 xB yA z", dict(zip("AB", OPTIONS, strict=False)), loose=True) == "A"


def test_mmmu_random_fallbacks_are_wrong_or_seeded_by_the_key() -> None:
    fields = {"question_type": "multiple-choice", "options": OPTIONS}
    items = [Item(f"validation_Art_{index}", "A", "no idea", fields) for index in range(400)]
    scores = [mmmu.score(item) for item in items]
    for variant in ("official", "lmms-eval", "lmms-eval-0.7.2"):
        assert {one.correct[variant] for one in scores} == {0.0}
        guesses = [one.correct[f"{variant}-seeded"] for one in scores]
        assert 0.18 < sum(guesses) / len(guesses) < 0.32  # one of four
        assert guesses == [float(seeded_choice(item.key, "ABCD") == "A") for item in items]
        assert {one.parsed[f"{variant}-seeded"] for one in scores} == {None}
    assert seeded_choice("validation_Art_1", "ABCD") == "B"  # pinned: the same on every machine and in every release
    assert [mmmu.score(item) for item in reversed(items)] == scores[::-1]


def test_mmmu_bagel_reads_silence_as_c() -> None:
    fields = {"question_type": "multiple-choice", "options": OPTIONS}
    assert correct(mmmu, " \n", "C", **fields)["bagel"] == 1
    assert parsed(mmmu, " \n", "C", **fields)["bagel"] is None
    assert correct(mmmu, "", "", question_type="open", options=[])["bagel"] == 1  # open: no such guess, only equality
    assert correct(mmmu, "", "C", question_type="open", options=[])["bagel"] == 0


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("The area is 12.004 m", "12", {"official", "lmms-eval", "bagel", "vlmevalkit"}),  # rounded to 2 decimals; a substring
        ("1,200", "1200", {"official", "lmms-eval", "bagel"}),
        ("so x = 5", "5", {"official", "lmms-eval", "bagel", "vlmevalkit"}),
        ("it is 24/7 here", "24/7", {"official", "lmms-eval", "bagel", "vlmevalkit"}),
        ("not parallel", "parallel", {"official", "lmms-eval", "bagel", "vlmevalkit"}),  # the gold text is part of it
        ("it is 8.5", "['8.4', '8.5']", {"official", "bagel"}),  # a list, which lmms-eval compares as one text
        ("it is 8.5", ["8.4", "8.5"], {"official", "lmms-eval", "bagel"}),
        ("8.50", "8.5", {"official", "lmms-eval", "bagel", "vlmevalkit"}),
        ("parallel" + " very" * 20, "parallel", {"official", "lmms-eval", "bagel"}),  # VLMEvalKit: too long for its text rule
        ("a", "a", {"official", "lmms-eval", "bagel", "vlmevalkit"}),
        ("nothing", "parallel", set()),
    ],
)
def test_mmmu_open_questions(reply: str, answer: Any, right: set[str]) -> None:
    scores = correct(mmmu, reply, answer, question_type="open", options=[])
    assert {variant for variant, value in scores.items() if value and not variant.endswith("-seeded")} == right
    assert scores["official-seeded"] == scores["official"]
    assert scores["lmms-eval-0.7.2"] == scores["lmms-eval-0.7.2-seeded"] == 0  # issue #1436


@pytest.mark.parametrize(
    ("reply", "official", "lmms_eval", "vlmevalkit", "bagel"),
    [
        ("Yes", "yes", "yes", "yes", "yes"),
        ("Yes.", "yes", "yes", "yes", "yes"),
        ("Not sure", "no", "no", None, "no"),
        ("nothing", "no", "no", None, "no"),
        ("The answer is yes", None, None, "yes", None),
        ("yes, there is no car", "yes", "yes", None, "yes"),  # VLMEvalKit: both words; with a judge it would ask
        ("  Yes", None, "yes", "yes", None),
        ("y", None, "yes", None, None),
        (".No", "no", "no", "no", "no"),
        ("..... No", None, "no", "no", None),  # lmms-eval drops periods
        ("是的", None, None, None, "yes"),
        ("不是", None, None, None, "no"),
        ("False", None, None, None, "no"),
        ("\nYes", "yes", "yes", "yes", "yes"),
        ("\n\nYes", None, "yes", "yes", "yes"),
        ("yes\tno", "yes", "yes", None, "yes"),  # the official script would leave a reply with a tab out
    ],
)
def test_mme_replies(reply: str, official: Any, lmms_eval: Any, vlmevalkit: Any, bagel: Any) -> None:
    expected = {"official": official, "lmms-eval": lmms_eval, "vlmevalkit": vlmevalkit, "bagel": bagel}
    assert parsed(mme, reply, "Yes") == expected
    for gold in ("Yes", "No"):
        assert correct(mme, reply, gold) == {variant: float(value == gold.lower()) for variant, value in expected.items()}


def test_hallusionbench_replies() -> None:
    def read(reply: str) -> tuple[str | None, str | None]:
        found = parsed(hallusionbench, reply, "1")
        return found["lmms-eval"], found["vlmevalkit"]

    assert read("Yes, it is") == ("yes", "yes")
    assert read("My eyes say otherwise") == ("yes", None)
    assert read("") == ("no", None)
    assert read("I cannot tell") == ("no", None)
    assert read("Yes or no?") == ("yes", None)
    assert read("*Yes*") == ("yes", None)
    assert read("no-one") == ("no", "no")
    assert read("no-one paid 1,000") == ("no", None)  # the comma between digits makes dashes vanish
    assert read("no-one knows - yes") == ("yes", "yes")  # and so does a dash beside a space
    assert read(". " * 31 + "yes.") == ("yes", "yes")
    assert read(". " * 32 + "yes.") == ("yes", None)  # only 32 periods are dropped


def test_hallusionbench_judge_and_questions_without_a_figure() -> None:
    """Unclear is right where there is no figure to see (VS, figure 0), wrong elsewhere; "incorrect" holds "correct"."""

    def read(judge: str, category: str, figure: str) -> tuple[float, str | None]:
        fields = {"category": category, "figure_id": figure, "judge_reply": judge}
        return (
            correct(hallusionbench, "?", "1", **fields)["judged"],
            parsed(hallusionbench, "?", "1", **fields)["judged"],
        )

    assert read("Incorrect.", "VS", "0") == (0, "incorrect")
    assert read("Correct", "VD", "0") == (1, "correct")
    assert read("unclear", "VS", "0") == (1, None)
    assert read("unclear", "VS", "1") == read("hm", "VD", "0") == (0, None)


@pytest.mark.parametrize(
    ("reply", "lmms_eval", "older", "vlmevalkit"),
    [
        ("B", "B", "B", "B"),
        ("(B)", "B", "B", "B"),
        ("The answer is B.", "B", "T", "B"),
        ("I would say (A). No, (B)", "B", "I", None),
        ("a blue car", "A", "A", "B"),  # lmms-eval: a leading letter, though of a word
        ("Xylophone", None, "X", None),  # only the question's letters count from 0.7.3 on
        ("My answer: A or B", "A", "M", None),
        ("I answer a question", "A", "I", None),
        ("(b).\nThe answer is C, (C)", "B", "B", "C"),
        ("(b)..\nThe answer is C, (C)", "C", "B", "C"),  # the first line is too long to be terse
        ("", None, None, None),
        ("42", None, None, None),
    ],
)
def test_blink_replies(reply: str, lmms_eval: Any, older: Any, vlmevalkit: Any) -> None:
    expected = {"lmms-eval": lmms_eval, "lmms-eval-0.7.2": older, "vlmevalkit": vlmevalkit}
    assert parsed(blink, reply, "(B)", options=OPTIONS) == expected
    assert correct(blink, reply, "(B)", options=OPTIONS) == {name: float(value == "B") for name, value in expected.items()}


QUESTION = "Where is it?\nA. Left\nB. Right\nPlease answer directly with only the letter of the correct option and nothing else."


@pytest.mark.parametrize(
    ("reply", "gold", "lmms_eval", "older", "vlmevalkit"),
    [
        ("B", "B", 1, 1, 1),
        ("B. Right", "B", 1, 0, 1),
        ("b.", "B", 0, 1, 0),  # lmms-eval's letters are capitals from 0.7 on
        ("The answer is B, not A", "B", 0, 0, 1),  # lmms-eval trusts a closing letter more than one after "the answer is"
        ("Right", "B", 0, 0, 1),
        ("Blue", "B", 1, 0, 0),  # any letter, as a last resort
        ("I see B on Cars", "B", 1, 0, 1),  # ... but one before a space is trusted more
        ("answer is B for Cars, my answer is B here", "B", 1, 0, 1),  # each phrase counts from where it first stands
        ("Three.", "three", 1, 1, 0),  # open: VLMEvalKit has no options to match
        ("3", "three", 0, 0, 0),
        ("It is three", "three", 0, 0, 0),
    ],
)
def test_realworldqa_replies(reply: str, gold: str, lmms_eval: int, older: int, vlmevalkit: int) -> None:
    scores = correct(realworldqa, reply, gold, question=QUESTION)
    assert scores == {"lmms-eval": lmms_eval, "lmms-eval-0.6.1": older, "vlmevalkit": vlmevalkit}
    with_options = correct(realworldqa, reply, gold, question="Where is it?", options=["Left", "Right"])
    assert with_options == scores


@pytest.mark.parametrize(
    ("reply", "lmms_eval", "vlmevalkit"),
    [
        ("B", 1, 1),
        ("(b)", 1, 0),
        ("B. a blue car", 1, 1),
        ("b. a blue car", 0, 1),
        ("B) a blue car", 0, 1),
        ("The answer is B", 0, 1),
        ("The answer is B.", 0, 1),
        ("a blue car", 0, 1),
        ("A. or B.", 0, 0),
    ],
)
def test_ai2d_replies(reply: str, lmms_eval: int, vlmevalkit: int) -> None:
    for answer in ("1", 1, "B"):
        assert correct(ai2d, reply, answer, options=OPTIONS) == {"lmms-eval": lmms_eval, "vlmevalkit": vlmevalkit}


def test_vlmevalkit_refusals_and_double_matches() -> None:
    def read(reply: str, *options: str) -> str | None:
        return parsed(ai2d, reply, "A", options=list(options))["vlmevalkit"]

    assert read("Cannot determine the answer, B", "x", "y") is None
    assert read("Failed to obtain answer via API B y", "x", "yoghurt y") is None  # longer than twice the options
    assert read("Failed to obtain answer via API yoghurt", "x" * 20, "yoghurt") == "B"
    assert read("Z", "x", "Zoo z") is None
    assert read("A, B or Z: the answer is B", "x", "y") == "B"  # a Z is a refusal only without letters
    assert read("unequal", "equal", "unequal") is None  # both texts are part of it
    assert read("equal", "equal", "unequal") == "A"
    assert read("the answer is blue", "red", "blue") == "B"  # "answer is b"
    assert read("the answer is blue", "blue", "red") == "B"  # ... and so is this: wrong, but so it reads


def test_docvqa_anls() -> None:
    def read(reply: str, *answers: str) -> tuple[float, float]:
        scores = correct(docvqa, reply, list(answers))
        assert scores["lmms-eval"] == scores["vlmevalkit"]
        return scores["lmms-eval"], scores["vlmevalkit-0a04a1d"]

    assert read("Hello  World", "hello world", "no") == (1, 1)
    assert read("abcd", "abxx") == (0.5, 0.5)  # 0.5 itself stays
    assert read("abcde", "abxxx") == (0, 0)
    assert read("  ab  ", "ax") == (pytest.approx(5 / 6), 0.5)  # spaces count in the raw length only
    assert read("ab", "xx", "ax") == (0.5, 0.5)  # the nearest gold
    assert read("", "") == (1, 1)
    assert parsed(docvqa, "  ", ["a"])["lmms-eval"] is None
    assert correct(docvqa, "b", "['a', 'b']")["lmms-eval"] == 1


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("105", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("12%", "12", False),
        ("12%", "0.12", True),
        ("0.0", "0", False),  # a gold of 0 is compared as text
        ("0", "0", True),
        ("1,000", "1000", False),
        ("$5", "5", False),
        ("Yes.", "yes", False),  # VLMEvalKit #948
        ("YES", "yes", True),
        ("1_000", "1000", True),
        ("nan", "nan", False),  # nan is a number, and not within 5 % of itself
        ("1e2", "100", True),
        ("-5", "5", False),
    ],
)
def test_chartqa_replies(reply: str, gold: str, right: bool) -> None:
    assert correct(chartqa, reply, gold) == dict.fromkeys(chartqa.VARIANTS, float(right))


def test_chartqa_spaces_around_a_word_matter_to_lmms_eval_only() -> None:
    assert correct(chartqa, " Yes\n", "yes") == {"lmms-eval": 0, "vlmevalkit": 1}
    assert correct(chartqa, " 12\n", "12") == {"lmms-eval": 1, "vlmevalkit": 1}


@pytest.mark.parametrize(
    ("module", "answer", "fields", "said"),
    [
        (blink, "maybe", {"options": OPTIONS}, "must be an option's letter"),
        (mme, "perhaps", {}, "must be yes or no"),
        (mmmu, "B", {"options": OPTIONS}, "no question_type"),
        (mmmu, "B", {"question_type": "multiple-choice", "options": []}, "without options"),
        (ai2d, "1", {"options": "['a', 'b']"}, "must be a list"),
    ],
)
def test_bad_rows_are_named(module: Any, answer: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        module.score(Item("row-7", answer, "B", fields))
