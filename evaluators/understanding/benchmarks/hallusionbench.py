"""HallusionBench: 951 yes-no questions about images, some of them altered to mislead; 178 more have no image and are left out.

Prompt: the bare question in both harnesses (lmms-eval `tasks/hallusion_bench/evaluate_hb.py`, VLMEvalKit
`vlmeval/dataset/image_yorn.py`).
"""

from evaluators.understanding.benchmark import VLMEVALKIT_TOKENS, Benchmark, Template, single_picture
from evaluators.understanding.record import Record, Row
from rf_repro.core.errors import UserError

_ANSWERS = {"1": "Yes", "0": "No", "yes": "Yes", "no": "No"}


def read_row(record: Record) -> Row | None:
    """VLMEvalKit's `index` is category_subcategory_visual_set_figure_question."""
    if record.layout == "tsv":
        index = record.text("index").split("_")
        if len(index) < 6:
            raise UserError(f"{record.where}: index {record.text('index')!r}: must have six parts; is it HallusionBench.tsv?")
        category = record.optional("category") or index[0]
        subcategory = record.optional("l2-category") or index[1]
        set_id, figure_id, question_id = index[3:6]
    else:
        if record.optional("visual_input") == "0":  # no image is shown
            return None
        category, subcategory = record.text("category"), record.text("subcategory")
        set_id, figure_id, question_id = record.text("set_id"), record.text("figure_id"), record.text("question_id")
    stated = record.text("gt_answer", "answer").strip()
    if stated.lower() not in _ANSWERS:
        raise UserError(f"{record.where}: answer {stated!r}: must be yes, no, 1 or 0; is it HallusionBench's file?")
    fields = {
        "category": category, "subcategory": subcategory, "set_id": set_id, "figure_id": figure_id, "question_id": question_id,
        "visual_input": record.optional("visual_input") or "1",
    }  # fmt: skip
    figure = "_".join((category, subcategory, set_id))
    key = "_".join((figure, figure_id, question_id))
    return Row(key, record.text("question"), _ANSWERS[stated.lower()], fields, figure, record.layout, record.load)


HALLUSIONBENCH = Benchmark(
    name="hallusionbench",
    title="HallusionBench, with images",
    column="HalluBench",
    expected=951,
    size_verified=True,
    split="image",
    hub=("lmms-lab-encoder/HallusionBench", "lmms-lab/HallusionBench"),
    configs=(),
    tsv=("HallusionBench",),
    licence="BSD-3-Clause",
    metrics="hallusionbench",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(lambda row: row.question), 128),
        "vlmevalkit": Template(single_picture(lambda row: row.question), VLMEVALKIT_TOKENS),
    },
    inferred="aAcc: 65.0 beside MMMU 56.2 fits it, while the average of the three is lower",
)
