"""ChartQA's test split: questions about charts, half written by people, half made from captions.

Prompts: lmms-eval `tasks/chartqa`, VLMEvalKit `vlmeval/dataset/image_vqa.py`.
"""

from evaluators.understanding.benchmark import SINGLE, VLMEVALKIT_TOKENS, Benchmark, Template, single_picture
from evaluators.understanding.record import Record, Row
from rf_repro.core.errors import UserError

SPLITS = {
    "human_test": "human_test", "augmented_test": "augmented_test",  # lmms-lab's `type`
    "test_human": "human_test", "test_augmented": "augmented_test",  # VLMEvalKit's `split`
    "0": "human_test", "1": "augmented_test",  # HuggingFaceM4's `human_or_machine`
}  # fmt: skip


def read_row(record: Record) -> Row:
    """Rows but VLMEvalKit's have no id: their position is their key. One right answer a question."""
    stated = record.text("type", "split", "human_or_machine")
    if stated not in SPLITS:
        raise UserError(f"{record.where}: split {stated!r}: must be one of {', '.join(SPLITS)}; is it ChartQA's test split?")
    answer = record.values.get("answer", record.values.get("label"))
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    if answer is None:
        raise UserError(f"{record.where}: has no answer; is it ChartQA's file?")
    key = record.text("index") if record.layout == "tsv" else str(record.number)
    question = record.text("question", "query")
    return Row(key, question, str(answer), {"type": SPLITS[stated]}, key, record.layout, record.load)


CHARTQA = Benchmark(
    name="chartqa",
    title="ChartQA, test",
    column="ChartQA",
    expected=2500,
    size_verified=False,
    split="test",
    hub=("lmms-lab-encoder/ChartQA", "lmms-lab/ChartQA", "HuggingFaceM4/ChartQA"),
    configs=(),
    tsv=("ChartQA_TEST",),
    licence="GPL-3.0",
    metrics="chartqa",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(lambda row: f"{row.question}\nAnswer the question with a single word."), 16),
        "vlmevalkit": Template(single_picture(lambda row: f"{row.question}\n{SINGLE}"), VLMEVALKIT_TOKENS),
    },
    inferred="relaxed accuracy over both halves",
)
