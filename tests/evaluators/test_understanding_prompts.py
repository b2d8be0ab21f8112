"""Prompts word for word as the harnesses' sources have them: lmms-eval 0.7.3 (PyPI), VLMEvalKit at e8e78f0, BAGEL at 056b5fd."""

from pathlib import Path

import pytest
from PIL import Image

from evaluators.understanding.benchmarks import BENCHMARKS
from evaluators.understanding.data import load_questions
from evaluators.understanding.images import rgb_image
from evaluators.vlm.protocol import Parts
from tests.evaluators.understanding_files import MINIS, color, write_parquet, write_tsv

LETTER = "Answer with the option's letter from the given choices directly."
SINGLE = "Answer the question using a single word or phrase."
SELECT = "Please select the correct answer from the options above. \n"
C, T = ".parquet", ".tsv"
CASES = [  # benchmark, file, protocol, question, images as their colours and text
    ("mmmu", C, "lmms-eval", 0, ["First?", 10, "or", 20, f"then\nA. red\nB. blue\n\n{LETTER}"]),
    ("mmmu", C, "lmms-eval", 2, ["Third?", 40, SINGLE]),
    ("mmmu", C, "vlmevalkit", 0, ["Question: First? ", 10, " or ", 20, f" then\nOptions:\nA. red\nB. blue\n{SELECT}"]),
    ("mmmu", T, "vlmevalkit", 0, ["Question: First? ", 10, " or ", 20, f" then\nOptions:\nA. red\nB. blue\n{SELECT}"]),
    ("mmmu", T, "vlmevalkit", 2, ["Question: Third? ", 40, "\n"]),
    ("mmmu", C, "bagel", 1, [30, f"Second? <image 1>\nA. it's\nB. one\n{LETTER}"]),
    ("mmmu", C, "bagel", 2, [40, f"Third? <image 1>\n{SINGLE}"]),
    ("hallusionbench", C, "lmms-eval", 1, [5, "Is it so, 01?"]),
    ("hallusionbench", T, "vlmevalkit", 1, [5, "Is it so, 01?"]),  # its image cell names the row before
    ("mme", C, "lmms-eval", 0, [1, f"Question 1?\n{SINGLE}"]),
    ("mme", T, "vlmevalkit", 0, [1, "Question 1? Please answer yes or no."]),
    ("mme", C, "bagel", 0, [1, f"Question 1? Please answer yes or no. {SINGLE}"]),
    ("blink", C, "lmms-eval", 2, [3, 4, 5, "Note: You only need to respond with A, B without providing any additional "
                                           "information.\nWhich 3?\nSelect from the following choices.\n(A) one\n(B) two"]),
    ("blink", T, "vlmevalkit", 2, [3, 4, 5, f"Question: Which 3?\nOptions:\nA. one\nB. two\n{SELECT}"]),
    ("realworldqa", C, "lmms-eval", 2, [3, "How many 3?\nPlease answer directly with a single word or number."]),
    ("realworldqa", T, "vlmevalkit", 0, [1, f"Question: Where 1?\nOptions:\nA. left\nB. right\n{SELECT}"]),
    ("ai2d", C, "lmms-eval", 3, [3, f"What 3?\nA. root\nB. leaf\nC. sun\nD. rain\n{LETTER}"]),
    ("ai2d", T, "vlmevalkit", 3, [3, f"Question: What 3?\nOptions:\nA. root\nB. leaf\nC. sun\nD. rain\n{SELECT}"]),
    ("docvqa", C, "lmms-eval", 0, [0, f"Who 0?\n{SINGLE}"]),
    ("docvqa", T, "vlmevalkit", 0, [0, f"Who 0?\n{SINGLE}"]),
    ("chartqa", C, "lmms-eval", 2, [2, "How much 2?\nAnswer the question with a single word."]),
    ("chartqa", T, "vlmevalkit", 2, [2, f"How much 2?\n{SINGLE}"]),
]  # fmt: skip


def asked(name: str, path: Path, protocol: str, index: int) -> Parts:
    benchmark = BENCHMARKS[name]
    row = load_questions(benchmark, str(path)).rows[index]
    return benchmark.protocols[protocol].build(row, {number: rgb_image(data) for number, data in row.load().items()})


@pytest.mark.parametrize(("name", "suffix", "protocol", "index", "expected"), CASES)
def test_word_for_word(name: str, suffix: str, protocol: str, index: int, expected: list[int | str], tmp_path: Path) -> None:
    path = (write_tsv if suffix == T else write_parquet)(tmp_path / f"x{suffix}", MINIS[name])
    parts = asked(name, path, protocol, index)
    assert [part if isinstance(part, str) else part.getpixel((0, 0)) for part in parts] == [
        part if isinstance(part, str) else color(part) for part in expected
    ]


def test_bagel_doubles_the_first_image_alone(tmp_path: Path) -> None:
    parts = asked("mmmu", write_parquet(tmp_path / "x.parquet", MINIS["mmmu"]), "bagel", 0)
    assert [part.size for part in parts if isinstance(part, Image.Image)] == [(120, 96), (60, 48)]


def test_every_protocol_has_its_length() -> None:
    lengths = {name: benchmark.protocols["lmms-eval"].max_new_tokens for name, benchmark in BENCHMARKS.items()}
    assert lengths == {"mmmu": 128, "hallusionbench": 128, "mme": 16, "blink": 1024, "realworldqa": 16, "ai2d": 16,
                       "ai2d_mask": 16, "docvqa": 32, "chartqa": 16}  # fmt: skip
    assert [BENCHMARKS[name].protocols["bagel"].max_new_tokens for name in ("mmmu", "mme")] == [10, 20]


def test_lmms_eval_puts_sorted_images_in_the_places_of_the_mentions() -> None:
    """Its quirks, kept: `<image 2>` comes first and gets image 1; a second mention of one image loses the text before it."""
    from evaluators.understanding.benchmarks.mmmu import lmms_eval
    from evaluators.understanding.record import Row

    def row(question: str) -> Row:
        fields = {"question_type": "open", "options": []}
        return Row("k", question, "1", fields, "k", "columns", lambda: {})

    one, two = (Image.new("RGB", (1, 1), color(value)) for value in (1, 2))
    assert lmms_eval(row("a <image 2> b <image 1> c"), {1: one, 2: two}) == ("a", one, "b", two, f"c\n\n{SINGLE}")
    assert lmms_eval(row("a <image 1> b <image 1> c"), {1: one}) == ("a", one, f"c\n\n{SINGLE}")
    assert lmms_eval(row("no image"), {1: one}) == (f"no image\n\n{SINGLE}",)


def test_a_mentioned_image_that_is_not_there_is_an_error() -> None:
    from evaluators.understanding.benchmarks.mmmu import lmms_eval, vlmevalkit
    from evaluators.understanding.record import Row

    row = Row("k", "a <image 3> b", "1", {"question_type": "open", "options": []}, "k", "columns", lambda: {})
    for build in (lmms_eval, vlmevalkit):
        with pytest.raises(KeyError):
            build(row, {1: Image.new("RGB", (1, 1))})
