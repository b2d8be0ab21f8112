"""MMMU's validation split: 900 college questions, 847 with options and 53 open ones, with up to seven images.

Prompts: lmms-eval `tasks/mmmu/utils.py` (construct_prompt, mmmu_doc_to_messages, at its defaults), VLMEvalKit
`vlmeval/dataset/image_mcq.py` (ImageMCQDataset.build_prompt, MMMUDataset.split_MMMU), BAGEL `eval/vlm/eval/mmmu`.
"""

import re

from PIL import Image

from evaluators.understanding.benchmark import (
    LETTER,
    SINGLE,
    VLMEVALKIT_TOKENS,
    Benchmark,
    Images,
    Template,
    answers,
    lettered,
    mcq_text,
    pictures_first,
    stored_list,
    tsv_options,
)
from evaluators.understanding.record import Record, Row
from evaluators.vlm.protocol import Parts

CHOICE, OPEN = "multiple-choice", "open"
MENTION = re.compile(r"<image ([1-9])>")


def read_row(record: Record) -> Row | None:
    """A question of the validation split; rows of other splits, which VLMEvalKit's file has too, are left out."""
    if record.optional("split") not in ("", "validation"):
        return None
    if record.layout == "tsv":
        options = tsv_options(record)
        kind = record.optional("question_type") or (CHOICE if options else OPEN)
        key = record.text("id", "index")
    else:
        kind, key = record.text("question_type"), record.text("id")
        options = stored_list(record.values.get("options"), f"{record.where}: options")
    if not key.startswith("validation_") and record.layout == "columns":
        return None
    subject = match[1] if (match := re.fullmatch(r"[a-z]+_(.+)_\d+", key)) else record.optional("category", "subfield")
    fields = {"id": key, "options": options, "question_type": kind, "subject": subject, "category": subject}
    answer = record.text("answer") if kind == CHOICE else answers(record.values.get("answer", ""))
    return Row(key, record.text("question"), answer, fields, key, record.layout, record.load)


def lmms_eval(row: Row, images: Images) -> Parts:
    """As chat models are asked there. Kept as it is: the images that are mentioned, sorted, take the places of the mentions in
    their order, whatever numbers these have; and where an image is mentioned again, the text between is lost."""
    if row.fields["question_type"] == CHOICE:
        text = f"{row.question}\n{lettered(row.fields['options'])}\n\n{LETTER}"
    else:
        text = f"{row.question}\n\n{SINGLE}"
    shown = [images[number] for number in sorted({int(number) for number in MENTION.findall(text)})]
    pieces = MENTION.sub("<image>", text).split("<image>")
    parts: list[str | Image.Image] = []
    for index, image in enumerate(shown):
        if index < len(pieces) - 1 and (before := pieces[index].strip()):
            parts.append(before)
        parts.append(image)
    return (*parts, pieces[-1].strip())


def vlmevalkit(row: Row, images: Images) -> Parts:
    """Every mention of an image is replaced by that image; a question that mentions none has all of them first."""
    text = mcq_text(row)
    if not MENTION.search(text):
        return pictures_first(images, text)
    pieces = MENTION.split(text)  # text, number, text, number, ..., text
    return tuple(part for index, piece in enumerate(pieces) if (part := images[int(piece)] if index % 2 else piece))


def bagel(row: Row, images: Images) -> Parts:
    """All images first, the first at twice its size; the mentions stay in the text."""
    text = row.question.strip()
    if options := [option.strip() for option in row.fields["options"]]:
        text += f"\n{lettered(options)}"
    text += f"\n{LETTER if row.fields['question_type'] == CHOICE else SINGLE}"
    first = images.get(1)
    if first is not None:
        images = {**images, 1: first.resize((first.width * 2, first.height * 2), Image.Resampling.BILINEAR)}
    return pictures_first(images, text.strip())


MMMU = Benchmark(
    name="mmmu",
    title="MMMU, validation",
    column="MMMU",
    expected=900,
    size_verified=True,
    split="validation",
    hub=("lmms-lab-encoder/MMMU", "lmms-lab/MMMU"),
    configs=(),
    tsv=("MMMU_DEV_VAL",),
    licence="Apache-2.0",
    metrics="mmmu",
    row=read_row,
    protocols={
        "lmms-eval": Template(lmms_eval, 128),
        "vlmevalkit": Template(vlmevalkit, VLMEVALKIT_TOKENS),
        "bagel": Template(bagel, 10),
    },
    inferred="accuracy on the validation split without chain of thought; whether the paper used chain of thought is unknown "
    "(BAGEL does, about 2 points more)",
)
