"""Images in GenEval's layout judged by a vision-language model: soft scores of all questions, and a verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.geneval.folder import ImageFile, Scan
from evaluators.geneval.metadata import PromptSpec
from evaluators.geneval2.decoded import DecodedImages, question_key
from evaluators.geneval2.soft_tifa import arithmetic_mean, geometric_mean
from evaluators.geneval2.spellings import ask_in_one_word
from evaluators.geneval_vlm.questions import Question, questions_of
from evaluators.geneval_vlm.summary import summarize
from evaluators.vlm.ask import Replies, ask
from evaluators.vlm.protocol import Query, VisionLanguageModel
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.core.records import EvalResult

NAME = "geneval-vlm"
VERSION = 1  # raise it when the same prompt can be asked other questions, or a reply can be judged otherwise
Progress = Callable[[int, int], None]
Row = dict[str, Any]


def read_questions(found: Scan) -> dict[int, list[Question]]:
    """Prompt id -> its questions. Raises UserError where a prompt has none."""
    return {
        prompt_id: questions_of(PromptSpec.parse(fields, f"prompt {prompt_id}")) for prompt_id, fields in found.prompts.items()
    }


def protocol_id(found: Scan, prompt_set: str) -> str:
    """`geneval-vlm-v1-` and 8 hex digits, which stand for the prompts and the number of images of each; then the set's name."""
    prompts = [[prompt_id, found.prompts[prompt_id]] for prompt_id in sorted(found.prompts)]
    return f"{NAME}-v{VERSION}-{content_hash([prompts, found.images_per_prompt])[:8]} {prompt_set}"


def judge_images(
    found: Scan,
    model: VisionLanguageModel,
    store: Path,
    *,
    prompt_set: str,
    batch_size: int = 1,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = lambda done, total: None,
) -> Replies:
    """What the model replies to all questions of the shard, an image's after each other; see `evaluators.vlm.ask.ask`."""
    asked, images = read_questions(found), DecodedImages()
    queries = [
        Query(question_key(image, index), images.question(image, ask_in_one_word(question.text)), question.choices)
        for image in found.images
        for index, question in enumerate(asked[image.prompt_id])
    ]
    protocol = protocol_id(found, prompt_set)
    return ask(queries, model, store, protocol=protocol, batch_size=batch_size, shard=shard, progress=progress)


def score(
    found: Scan, replies: Replies, *, prompt_set: str, judge: Mapping[str, str], partial: bool
) -> tuple[EvalResult, list[Row]]:
    """The result, and one row an image in the folder's order.

    Args:
        judge: recorded in the result as its evaluator.
        partial: images without a reply, or that are missing, are left out, and the result says so.

    Returns:
        Rows: prompt_id, sample, sha256, tag, prompt, correct (the verdict: the likeliest answer to every question is right),
        soft_tifa_am, soft_tifa_gm, questions (kind, text, right, score, said), reason (the first question that was answered
        otherwise), failure. The scores and the verdict are None where a question failed, whose reason is in `failure`.

    Raises:
        UserError: an image has no score and `partial` is false.
    """
    asked = read_questions(found)
    rows = [_row(image, found.prompts[image.prompt_id], asked[image.prompt_id], replies) for image in found.images]
    failed = [row for row in rows if row["correct"] is None]
    if len(rows) - len(failed) < found.expected and not partial:
        why = f"; of image {failed[0]['prompt_id']}: {failed[0]['failure']}" if failed else ""
        raise UserError(
            f"{found.root}: {len(rows) - len(failed)} of {found.expected} images have a score{why}; run again to ask what "
            "failed, or give partial=True"
        )
    metrics, missing = summarize(rows)
    result = EvalResult(
        benchmark=NAME,
        protocol=protocol_id(found, prompt_set),
        metrics=metrics,
        n=len(rows) - len(failed),
        expected_n=found.expected,
        failures=len(failed) + found.damaged,
        missing=missing,
        evaluator=dict(judge),
    )
    return result, rows


def _row(image: ImageFile, metadata: Mapping[str, Any], asked: Sequence[Question], replies: Replies) -> Row:
    keys = [question_key(image, index) for index in range(len(asked))]
    failure = next((replies.failures[key] for key in keys if key in replies.failures), "")
    row = {
        "prompt_id": image.prompt_id,
        "sample": image.sample,
        "sha256": image.sha256,
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": None,
        "soft_tifa_am": None,
        "soft_tifa_gm": None,
        "questions": [],
        "reason": "",
        "failure": failure,
    }
    if failure:
        return row
    judged = [_judged(question, replies.probabilities[key]) for question, key in zip(asked, keys, strict=True)]
    scores = [answer["score"] for answer in judged]
    wrong = [answer for answer in judged if not answer["right"]]
    reason = f"{wrong[0]['text']} {wrong[0]['said']}" if wrong else ""
    return {
        **row, "correct": not wrong, "soft_tifa_am": arithmetic_mean(scores), "soft_tifa_gm": geometric_mean(scores),
        "questions": judged, "reason": reason,
    }  # fmt: skip


def _judged(question: Question, values: Sequence[float]) -> dict[str, Any]:
    right = [values[index] for index in question.right]
    wrong = [value for index, value in enumerate(values) if index not in question.right]
    best = max(range(len(values)), key=lambda index: values[index])
    return {
        "kind": question.kind,
        "text": question.text,
        "score": min(1.0, math.fsum(right)),  # sums of float32 probabilities may pass 1 by their rounding
        "right": max(right, default=0.0) > max(wrong, default=0.0),  # a tie is no answer
        "said": question.answers[best],
    }
