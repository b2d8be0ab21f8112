"""RealWorldQA: questions about photographs, most with two to four options, some answered by a word or a number.

Prompts: lmms-eval `tasks/realworldqa/utils.py`: the question as it is, which has its options and its instruction; VLMEvalKit
`vlmeval/dataset/image_mcq.py`, whose file has the options in columns.
"""

import re

from evaluators.understanding.benchmark import VLMEVALKIT_TOKENS, Benchmark, Template, mcq_text, single_picture, tsv_options
from evaluators.understanding.record import Record, Row

OPTION = re.compile(r"^([A-Z])\.\s+(.*)$", re.MULTILINE)


def read_row(record: Record) -> Row:
    """The data's own rows have no id: their position is their key."""
    question = record.text("question")
    if record.layout == "tsv":
        options, key = tsv_options(record), record.text("index")
    else:
        options, key = [text.strip() for _, text in OPTION.findall(question)], str(record.number)
    fields = {"options": options, "question": question, "category": record.optional("category")}
    return Row(key, question, record.text("answer").strip(), fields, key, record.layout, record.load)


REALWORLDQA = Benchmark(
    name="realworldqa",
    title="RealWorldQA",
    column="RealWorldQA",
    expected=765,
    size_verified=False,
    split="test",
    hub=("lmms-lab-encoder/RealWorldQA", "lmms-lab/RealWorldQA", "xai-org/RealworldQA"),
    configs=(),
    tsv=("RealWorldQA",),
    licence="CC BY-ND 4.0",
    metrics="realworldqa",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(lambda row: row.question.strip()), 16, layouts=("columns",)),
        "vlmevalkit": Template(single_picture(mcq_text), VLMEVALKIT_TOKENS, layouts=("tsv",)),
    },
    inferred="accuracy",
)
