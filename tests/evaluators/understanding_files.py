"""The eight benchmarks in miniature, in the data sets' own schemas and in VLMEvalKit's, made on the spot."""

import base64
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from evaluators.vlm.protocol import Parts, text_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value: int, size: tuple[int, int] = (60, 48)) -> bytes:
    """One colour that tells it apart."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color(value)).save(buffer, "PNG")
    return buffer.getvalue()


def color(value: int) -> tuple[int, int, int]:
    return value, 255 - value, 77


def picture(value: int | None) -> dict[str, Any] | None:
    return None if value is None else {"bytes": png(value), "path": f"{value}.png"}


def listed(values: Sequence[int]) -> str:
    """Several images in one TSV cell."""
    return str([coded(value) for value in values])


def coded(value: int) -> str:
    return base64.b64encode(png(value)).decode()


@dataclass(frozen=True)
class Mini:
    """
    Attributes:
        columns: rows in the data set's own schema; rows that are no part of the benchmark among them.
        schema: of them.
        tsv: rows of VLMEvalKit's file, with the same keys each.
        replies: a part of a question -> (a right reply, a wrong one); a question has one such part.
    """

    columns: list[dict[str, Any]]
    schema: pa.Schema
    tsv: list[dict[str, str]]
    replies: dict[str, tuple[str, str]]

    def answerer(self, right: Callable[[str], bool] = lambda part: True) -> Callable[[Parts], str]:
        """Says the right reply where `right`, of the part of the question, says so, else the wrong one."""

        def reply(parts: Parts) -> str:
            (part,) = [part for part in self.replies if part in text_of(parts)]
            return self.replies[part][0 if right(part) else 1]

        return reply


def _schema(**kinds: Any) -> pa.Schema:
    return pa.schema(list(kinds.items()))


TEXT, TEXTS = pa.string(), pa.list_(pa.string())


def _mmmu() -> Mini:
    def row(key: str, question: str, options: str, answer: str, kind: str, *values: int) -> dict[str, Any]:
        images = {f"image_{n}": picture(values[n - 1] if n <= len(values) else None) for n in range(1, 8)}
        return {"id": key, "question": question, "options": options, "explanation": "", **images, "answer": answer,
                "topic_difficulty": "Easy", "question_type": kind, "subfield": "x"}  # fmt: skip

    choice, free = "multiple-choice", "open"
    images = {f"image_{n}": IMAGE for n in range(1, 8)}
    columns = [
        row("validation_Accounting_1", "First? <image 1> or <image 2> then", "['red', 'blue']", "B", choice, 10, 20),
        row("validation_Art_2", "Second? <image 1>", "['it\\'s', \"one\"]", "A", choice, 30),
        row("validation_Math_3", "Third? <image 1>", "[]", "42", free, 40),
        row("validation_Math_4", "Fourth? <image 1>", "[]", "['7.5', 'seven and a half']", free, 50),
        row("dev_Math_1", "Fifth? <image 1>", "['a', 'b']", "A", choice, 60),
    ]
    tsv = [
        {"index": "0", "id": "validation_Accounting_1", "image": listed([10, 20]),
         "question": "First? <image 1> or <image 2> then", "A": "red", "B": "blue", "answer": "B", "split": "validation"},
        {"index": "1", "id": "validation_Art_2", "image": coded(30), "question": "Second? <image 1>", "A": "it's", "B": "one",
         "answer": "A", "split": "validation"},
        {"index": "2", "id": "validation_Math_3", "image": coded(40), "question": "Third? <image 1>", "answer": "42",
         "split": "validation"},
        {"index": "3", "id": "validation_Math_4", "image": coded(50), "question": "Fourth? <image 1>",
         "answer": "['7.5', 'seven and a half']", "split": "validation"},
        {"index": "4", "id": "dev_Math_1", "image": coded(60), "question": "Fifth? <image 1>", "A": "a", "B": "b", "answer": "A",
         "split": "dev"},
    ]  # fmt: skip
    replies = {"First?": ("B", "A"), "Second?": ("(A)", "(B)"), "Third?": ("42", "41"), "Fourth?": ("It is 7.5", "It is 8")}
    schema = _schema(id=TEXT, question=TEXT, options=TEXT, explanation=TEXT, **images, answer=TEXT, topic_difficulty=TEXT,
                     question_type=TEXT, subfield=TEXT)  # fmt: skip
    return Mini(columns, schema, tsv, replies)


def _hallusionbench() -> Mini:
    columns, tsv = [], []
    replies = {}
    cells = (("0", "0", 5, "1"), ("0", "1", 5, "0"), ("1", "0", 6, "0"), ("1", "1", 6, "1"))
    for figure, question, value, answer in cells:
        text = f"Is it so, {figure}{question}?"
        columns.append(
            {"category": "VD", "subcategory": "figure", "visual_input": "1", "set_id": "3", "figure_id": figure,
             "sample_note": "n", "question_id": question, "question": text, "gt_answer_details": "d", "gt_answer": answer,
             "filename": "./f.png", "image": picture(value)}
        )  # fmt: skip
        index = f"VD_figure_1_3_{figure}_{question}"
        first = question == "0"  # the second question about an image names the row of the first
        tsv.append(
            {"index": index, "image": coded(value) if first else f"VD_figure_1_3_{figure}_0", "question": text,
             "answer": "Yes" if answer == "1" else "No", "category": "VD", "l2-category": "figure"}
        )  # fmt: skip
        replies[text] = ("Yes, it is." if answer == "1" else "No.", "No" if answer == "1" else "Yes")
    unseen = {**columns[0], "visual_input": "0", "set_id": "4", "question": "Unseen?", "image": None}
    tsv.append({**tsv[0], "index": "VS_table_0_4_0_0", "image": "", "question": "Unseen?"})
    kinds = dict.fromkeys(columns[0], TEXT) | {"image": IMAGE}
    return Mini([*columns, unseen], _schema(**kinds), tsv, replies)


def _mme() -> Mini:
    columns, tsv, replies = [], [], {}
    for index, (task, image, number, answer) in enumerate(
        [("OCR", "a.png", 1, "Yes"), ("OCR", "a.png", 2, "No"), ("code_reasoning", "a.png", 3, "Yes"),
         ("code_reasoning", "a.png", 4, "No")]
    ):  # fmt: skip
        text = f"Question {number}? Please answer yes or no."
        columns.append(
            {"question_id": f"{task}/{image}", "image": picture(number), "question": text, "answer": answer, "category": task}
        )
        tsv.append({"index": str(index), "image": coded(number), "question": text, "answer": answer, "category": task,
                    "image_path": f"{task}/{image}"})  # fmt: skip
        replies[f"Question {number}?"] = (answer, "No" if answer == "Yes" else "Yes")
    return Mini(columns, _schema(question_id=TEXT, image=IMAGE, question=TEXT, answer=TEXT, category=TEXT), tsv, replies)


def _blink() -> Mini:
    columns, tsv = [], []
    cells = [("Counting", 1, (1,), "A"), ("Counting", 2, (2,), "B"), ("Jigsaw", 3, (3, 4, 5), "B")]
    for task, number, values, answer in cells:
        question = f"Which {number}?"
        images = {f"image_{n}": picture(values[n - 1] if n <= len(values) else None) for n in range(1, 5)}
        columns.append(
            {"idx": f"val_{task}_{number}", "question": question, "sub_task": task, **images, "choices": ["one", "two"],
             "answer": f"({answer})", "prompt": f"{question}\nSelect from the following choices.\n(A) one\n(B) two"}
        )  # fmt: skip
        tsv.append({"index": str(number), "image": listed(values) if len(values) > 1 else coded(values[0]), "question": question,
                    "A": "one", "B": "two", "answer": answer, "category": task})  # fmt: skip
    columns.append({**columns[0], "idx": "test_Counting_1", "answer": "(hidden)", "question": "Which 4?"})
    images = {f"image_{n}": IMAGE for n in range(1, 5)}
    schema = _schema(idx=TEXT, question=TEXT, sub_task=TEXT, **images, choices=TEXTS, answer=TEXT, prompt=TEXT)
    replies = {f"Which {number}?": (answer, "B" if answer == "A" else "A") for _, number, _, answer in cells}
    return Mini(columns, schema, tsv, replies)


def _realworldqa() -> Mini:
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    columns = [
        {"image": picture(1), "question": f"Where 1?\n\nA. left\nB. right\n{letter}", "answer": "B", "image_path": "1.webp"},
        {"image": picture(2), "question": f"Where 2?\n\nA. up\nB. down\nC. in\n{letter}", "answer": "C", "image_path": "2.webp"},
        {"image": picture(3), "question": "How many 3?\nPlease answer directly with a single word or number.", "answer": "4",
         "image_path": "3.webp"},
    ]  # fmt: skip
    tsv = [
        {"index": "0", "image": coded(1), "question": "Where 1?", "A": "left", "B": "right", "answer": "B"},
        {"index": "1", "image": coded(2), "question": "Where 2?", "A": "up", "B": "down", "C": "in", "answer": "C"},
        {"index": "2", "image": coded(3), "question": "How many 3?", "answer": "4"},
    ]
    replies = {"Where 1?": ("B", "A"), "Where 2?": ("C.", "A."), "How many 3?": ("4", "3")}
    return Mini(columns, _schema(image=IMAGE, question=TEXT, answer=TEXT, image_path=TEXT), tsv, replies)


def _ai2d() -> Mini:
    columns = [
        {
            "question": f"What {number}?",
            "options": ["root", "leaf", "sun", "rain"],
            "answer": str(number),
            "image": picture(number),
        }
        for number in range(4)
    ]
    tsv = [
        {"index": str(number), "image": coded(number), "question": f"What {number}?", "A": "root", "B": "leaf", "C": "sun",
         "D": "rain", "answer": "ABCD"[number], "category": "food web"}
        for number in range(4)
    ]  # fmt: skip
    replies = {f"What {number}?": ("ABCD"[number], "ABCD"[number - 1]) for number in range(4)}
    return Mini(columns, _schema(question=TEXT, options=TEXTS, answer=TEXT, image=IMAGE), tsv, replies)


def _docvqa() -> Mini:
    answers = (["Washington", "washington d.c."], ["1,234"], ["May 5"])
    columns = [
        {"questionId": str(100 + number), "question": f"Who {number}?", "question_types": ["form"], "image": picture(number),
         "docId": 7, "ucsf_document_id": "abc", "ucsf_document_page_no": str(number // 2), "answers": right, "data_split": "val"}
        for number, right in enumerate(answers)
    ]  # fmt: skip
    tsv = [
        {"index": str(100 + number), "image": coded(number), "question": f"Who {number}?", "answer": str(right)}
        for number, right in enumerate(answers)
    ]
    schema = _schema(questionId=TEXT, question=TEXT, question_types=TEXTS, image=IMAGE, docId=pa.int64(), ucsf_document_id=TEXT,
                     ucsf_document_page_no=TEXT, answers=TEXTS, data_split=TEXT)  # fmt: skip
    replies = {f"Who {number}?": (right[-1], "nothing at all") for number, right in enumerate(answers)}
    return Mini(columns, schema, tsv, replies)


def _chartqa() -> Mini:
    cells = [("human_test", "12", "12.4", "14"), ("human_test", "Yes", "yes", "Yes."), ("augmented_test", "0.5", "50%", "1"),
             ("augmented_test", "Peru", "peru", "Chile")]  # fmt: skip
    columns = [
        {"type": kind, "question": f"How much {number}?", "answer": answer, "image": picture(number)}
        for number, (kind, answer, *_) in enumerate(cells)
    ]
    tsv = [
        {"index": str(number), "image": coded(number), "question": f"How much {number}?", "answer": answer,
         "split": "_".join(reversed(kind.split("_")))}
        for number, (kind, answer, *_) in enumerate(cells)
    ]  # fmt: skip
    replies = {f"How much {number}?": (right, wrong) for number, (*_, right, wrong) in enumerate(cells)}
    return Mini(columns, _schema(type=TEXT, question=TEXT, answer=TEXT, image=IMAGE), tsv, replies)


MINIS: dict[str, Mini] = {
    "mmmu": _mmmu(), "hallusionbench": _hallusionbench(), "mme": _mme(), "blink": _blink(), "realworldqa": _realworldqa(),
    "ai2d": _ai2d(), "docvqa": _docvqa(), "chartqa": _chartqa(),
}  # fmt: skip


def write_parquet(path: Path, mini: Mini) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(mini.columns, mini.schema), path, row_group_size=2)
    return path


def write_arrow(path: Path, mini: Mini) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(mini.columns, mini.schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def write_tsv(path: Path, mini: Mini) -> Path:
    """As pandas writes it: cells quoted where they must be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = list(dict.fromkeys(name for row in mini.tsv for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(mini.tsv)
    return path
