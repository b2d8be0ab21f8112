"""DocVQA's validation split: questions about scanned pages, each with one or several right answers.

Prompts: lmms-eval `tasks/docvqa`, VLMEvalKit `vlmeval/dataset/image_vqa.py`: the same words.
"""

from evaluators.understanding.benchmark import SINGLE, VLMEVALKIT_TOKENS, Benchmark, Template, single_picture, stored_list
from evaluators.understanding.record import Record, Row
from rf_repro.core.errors import UserError


def read_row(record: Record) -> Row:
    """Questions of one page are alike."""
    stated = record.values.get("answers", record.values.get("answer"))
    if stated is None:
        raise UserError(f"{record.where}: has no answers; those of the test split are not public: name the validation split")
    where = f"{record.where}: answers"
    answers = stored_list(stated, where) if not isinstance(stated, str) or stated.startswith("[") else [stated]
    key = record.text("questionId", "index")
    page = f"{record.optional('ucsf_document_id')}/{record.optional('ucsf_document_page_no')}"
    cluster = page if page != "/" else record.optional("docId") or key
    return Row(key, record.text("question"), answers, {"question_id": key}, cluster, record.layout, record.load)


def text(row: Row) -> str:
    return f"{row.question}\n{SINGLE}"


DOCVQA = Benchmark(
    name="docvqa",
    title="DocVQA, validation",
    column="DocVQA",
    expected=5349,
    size_verified=False,
    split="validation",
    hub=("lmms-lab-encoder/DocVQA", "lmms-lab/DocVQA"),
    configs=("DocVQA",),
    tsv=("DocVQA_VAL",),
    licence="as the task's own page states; the pages are the UCSF Industry Documents Library's",
    metrics="docvqa",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(text), 32),
        "vlmevalkit": Template(single_picture(text), VLMEVALKIT_TOKENS),
    },
    inferred="ANLS on the validation split; the test split is scored by its authors' server alone",
)
