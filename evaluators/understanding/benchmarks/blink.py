"""BLINK's validation split: 1,901 multiple-choice questions in 14 tasks, with one to four images.

Prompts: lmms-eval `tasks/blink/utils.py` (blink_doc_to_text), VLMEvalKit `vlmeval/dataset/image_mcq.py`.
"""

from string import ascii_uppercase

from evaluators.understanding.benchmark import (
    VLMEVALKIT_TOKENS,
    Benchmark,
    Template,
    mcq_text,
    single_picture,
    stored_list,
    tsv_options,
)
from evaluators.understanding.record import Record, Row

CONFIGS = (
    "Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw", "Multi-view_Reasoning",
    "Object_Localization", "Relative_Depth", "Relative_Reflectance", "Semantic_Correspondence", "Spatial_Relation",
    "Visual_Correspondence", "Visual_Similarity",
)  # fmt: skip


def read_row(record: Record) -> Row | None:
    """The answer is a letter; the data's own is in parentheses, and `(hidden)` on the test split."""
    answer = record.text("answer").strip().strip("()")
    if answer == "hidden" or record.optional("split") not in ("", "val"):
        return None
    if record.layout == "tsv":
        options, key = tsv_options(record), record.text("index")
    else:
        options, key = stored_list(record.values.get("choices"), f"{record.where}: choices"), record.text("idx")
    task = record.text("sub_task", "category")
    fields = {"options": options, "category": task, "sub_task": task, "prompt": record.optional("prompt")}
    return Row(key, record.text("question"), answer, fields, key, record.layout, record.load)


def lmms_eval(row: Row) -> str:
    letters = ", ".join(ascii_uppercase[: len(row.fields["options"])])
    return f"Note: You only need to respond with {letters} without providing any additional information.\n{row.fields['prompt']}"


BLINK = Benchmark(
    name="blink",
    title="BLINK, validation",
    column="BLINK",
    expected=1901,
    size_verified=True,
    split="val",
    hub=("BLINK-Benchmark/BLINK",),
    configs=CONFIGS,
    tsv=("BLINK",),
    licence="Apache-2.0",
    metrics="blink",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(lmms_eval), 1024, layouts=("columns",)),
        "vlmevalkit": Template(single_picture(mcq_text), VLMEVALKIT_TOKENS),
    },
    inferred="mean over all questions; the mean over tasks is printed too",
)
