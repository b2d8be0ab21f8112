"""GenEval 2 from images to a result: every question is put to the judge, and the probabilities of the right answers are averaged.

The score of a question is the probability that the judge's next token is one with which an accepted spelling begins, each such
token once: `distinct-tokens`. The official script differs in three ways, of which the first two cannot show with its own judge,
Qwen3-VL, and the third hardly: it counts a token twice that two spellings begin with (Tencent-Hunyuan/UniRL, pull request 236);
where a tokenizer puts a special token before every text, it reads that token's probability; and of " 4", which Qwen's tokenizers
cut into a space and "4", it counts the bare space, with which any answer may begin.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.geneval.folder import ImageFile, Scan
from evaluators.geneval2.data import NAME, Item
from evaluators.geneval2.decoded import DecodedImages, question_key
from evaluators.geneval2.soft_tifa import arithmetic_mean, geometric_mean
from evaluators.geneval2.spellings import accepted, ask_in_one_word
from evaluators.geneval2.summary import summarize
from evaluators.vlm.ask import Replies, ask
from evaluators.vlm.protocol import Query, VisionLanguageModel
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import canonical_json
from rf_repro.core.records import EvalResult

VERSION = 1  # raise it when the same image can be asked other questions, or a reply can get another score
Progress = Callable[[int, int], None]
Row = dict[str, Any]


def queries(found: Scan, items: Sequence[Item]) -> list[Query]:
    """The questions in the images' order: those of one image follow each other and begin alike, with the image."""
    images = DecodedImages()
    return [
        Query(
            question_key(image, index),
            images.question(image, ask_in_one_word(question.text)),
            (accepted(question.answer),),
        )
        for image in found.images
        for index, question in enumerate(items[image.prompt_id].questions)
    ]


def judge_images(
    found: Scan,
    items: Sequence[Item],
    model: VisionLanguageModel,
    store: Path,
    *,
    data: str,
    batch_size: int = 1,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = lambda done, total: None,
) -> Replies:
    """What the model replies to all questions of the shard; see `evaluators.vlm.ask.ask`.

    Args:
        store: file that the replies are kept in.
        data: the items' name, as `evaluators.geneval2.data.identify` gives it.
    """
    return ask(
        queries(found, items), model, store, protocol=protocol_id(data), batch_size=batch_size, shard=shard,
        progress=progress,
    )  # fmt: skip


def score(
    found: Scan,
    items: Sequence[Item],
    replies: Replies,
    *,
    data: str,
    judge: Mapping[str, str],
    partial: bool,
) -> tuple[EvalResult, list[Row]]:
    """The result, and one row an image in the prompts' order.

    Args:
        data: the items' name; part of the protocol.
        judge: recorded in the result as its evaluator.
        partial: prompts without an image or a reply are left out, and the result says so.

    Returns:
        Rows: prompt_id, sample, sha256, tag, prompt, atom_count, soft_tifa_am and soft_tifa_gm (None where a question failed),
        questions (text, answer, skill, score), failure (why there is no score, or "").

    Raises:
        UserError: a prompt has no score and `partial` is false.
    """
    rows = [_row(image, items[image.prompt_id], replies) for image in found.images]
    failed = [row for row in rows if row["failure"]]
    if len(rows) - len(failed) < len(items) and not partial:
        why = f"; of image {failed[0]['prompt_id']}: {failed[0]['failure']}" if failed else ""
        raise UserError(
            f"{found.root}: {len(rows) - len(failed)} of {len(items)} prompts have a score{why}; run again to ask what failed, "
            "or give partial=True"
        )
    metrics, missing = summarize(rows, items)
    result = EvalResult(
        benchmark=NAME,
        protocol=protocol_id(data),
        metrics=metrics,
        n=len(rows) - len(failed),
        expected_n=len(items),
        failures=len(failed) + found.damaged,
        missing=missing,
        evaluator=dict(judge),
    )
    return result, rows


def protocol_id(data: str) -> str:
    return f"{NAME}-v{VERSION} distinct-tokens {data}"


def evaluator(name: str, model: VisionLanguageModel, batch_size: int) -> dict[str, str]:
    """What a result says of its judge."""
    settings = canonical_json(dict(model.settings))
    return {"judge": name, "judge_revision": model.revision, "judge_settings": settings, "batch_size": str(batch_size)}


def score_lists(rows: Sequence[Row]) -> list[list[float]]:
    """The scores as the official script writes them, for its own analysis: a list a prompt, in the data's order."""
    return [[question["score"] for question in row["questions"]] for row in rows]


def _row(image: ImageFile, item: Item, replies: Replies) -> Row:
    keys = [question_key(image, index) for index in range(len(item.questions))]
    failure = next((replies.failures[key] for key in keys if key in replies.failures), "")
    # Sums of float32 probabilities may pass 1 by their rounding.
    scores = [min(1.0, replies.probabilities[key][0]) if key in replies.probabilities else None for key in keys]
    known = [value for value in scores if value is not None]
    return {
        "prompt_id": image.prompt_id,
        "sample": image.sample,
        "sha256": image.sha256,
        "tag": NAME,
        "prompt": item.prompt,
        "atom_count": item.atom_count,
        "soft_tifa_am": None if failure else arithmetic_mean(known),
        "soft_tifa_gm": None if failure else geometric_mean(known),
        "questions": [
            {"text": question.text, "answer": question.answer, "skill": question.skill, "score": value}
            for question, value in zip(item.questions, scores, strict=True)
        ],
        "failure": failure,
    }
