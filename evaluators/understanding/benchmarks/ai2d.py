"""AI2D: 3,088 multiple-choice questions about diagrams, whose labels are covered by letters (masked) or not.

Prompts: lmms-eval `tasks/ai2d/utils.py` (ai2d_doc_to_text, the same for both data sets), VLMEvalKit
`vlmeval/dataset/image_mcq.py`.
"""

from dataclasses import replace
from string import ascii_uppercase

from evaluators.understanding.benchmark import (
    LETTER,
    VLMEVALKIT_TOKENS,
    Benchmark,
    Template,
    lettered,
    mcq_text,
    single_picture,
    stored_list,
    tsv_options,
)
from evaluators.understanding.record import Record, Row
from rf_repro.core.errors import UserError


def read_row(record: Record) -> Row:
    """The answer as a letter; the data's own is an index. Rows there have no id: their position is their key."""
    answer = record.text("answer").strip()
    if record.layout == "tsv":
        options, key = tsv_options(record), record.text("index")
    else:
        options, key = stored_list(record.values.get("options"), f"{record.where}: options"), str(record.number)
        if not answer.isdigit() or int(answer) >= len(options):
            raise UserError(f"{record.where}: answer {answer!r}: must be the index of an option; is it AI2D's file?")
        answer = ascii_uppercase[int(answer)]
    fields = {"options": options, "category": record.optional("category")}
    return Row(key, record.text("question"), answer, fields, key, record.layout, record.load)


def lmms_eval(row: Row) -> str:
    return f"{row.question}\n{lettered(row.fields['options'])}\n{LETTER}"


AI2D = Benchmark(
    name="ai2d",
    title="AI2D, labels visible",
    column="AI2D",
    expected=3088,
    size_verified=True,
    split="test",
    hub=("Efficient-Large-Model/ai2d-no-mask",),
    configs=(),
    tsv=("AI2D_TEST_NO_MASK",),
    licence="CC BY-SA 4.0",
    metrics="ai2d",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(lmms_eval), 16),
        "vlmevalkit": Template(single_picture(mcq_text), VLMEVALKIT_TOKENS),
    },
    inferred="the diagrams with their labels visible: 90.3 fits no other",
)

AI2D_MASK = replace(
    AI2D,
    name="ai2d_mask",
    title="AI2D, labels covered",
    column="",
    hub=("lmms-lab-encoder/ai2d", "lmms-lab/ai2d"),
    tsv=("AI2D_TEST",),
    inferred="",
)
