"""MME: 2,374 yes-no questions in 14 tasks, two about each image.

Prompts: lmms-eval `tasks/mme/utils.py` (mme_doc_to_text), VLMEvalKit `vlmeval/dataset/image_yorn.py`, BAGEL
`eval/vlm/eval/mme/eval.py`.
"""

from evaluators.understanding.benchmark import SINGLE, VLMEVALKIT_TOKENS, Benchmark, Template, single_picture
from evaluators.understanding.record import Record, Row

INSTRUCTION = " Please answer yes or no."  # the data's own


def read_row(record: Record) -> Row:
    """Both questions about an image share its id."""
    category = record.text("category")
    image = record.text("question_id") if record.layout == "columns" else record.text("image_path", "index")
    cluster = image if image.startswith(f"{category}/") else f"{category}/{image}"
    key = cluster if record.layout == "columns" else record.text("index")
    answer = record.text("answer").strip().capitalize()
    fields = {"category": category, "question_id": cluster, "image": cluster}
    return Row(key, record.text("question"), answer, fields, cluster, record.layout, record.load)


def lmms_eval(row: Row) -> str:
    return row.question.strip().replace(INSTRUCTION, "") + f"\n{SINGLE}"


def bagel(row: Row) -> str:
    """The data's own instruction stays."""
    return f"{row.question.strip()} {SINGLE}"


MME = Benchmark(
    name="mme",
    title="MME",
    column="MME*",
    expected=2374,
    size_verified=True,
    split="test",
    hub=("lmms-lab-encoder/MME", "lmms-lab/MME"),
    configs=(),
    tsv=("MME",),
    licence="for research; no licence is stated",
    metrics="mme",
    row=read_row,
    protocols={
        "lmms-eval": Template(single_picture(lmms_eval), 16),
        "vlmevalkit": Template(single_picture(lambda row: row.question), VLMEVALKIT_TOKENS),
        "bagel": Template(single_picture(bagel), 20),
    },
    inferred='mean over all questions, which the paper states ("MME*"); the parser is inferred',
)
