"""GenEval's prompts judged by a vision-language model, on a folder of images: scan, ask, score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.fields import at_least_one
from evaluators.geneval.folder import IMAGES_PER_PROMPT, Scan, scan
from evaluators.geneval.prompt_sets import identify, load
from evaluators.geneval2.judge import evaluator
from evaluators.geneval2.options import ImageOptions
from evaluators.geneval_vlm.judge import NAME, judge_images, score
from evaluators.results import ALL, Evaluation, Progress, Share, Tell, counting, kept_in, no_progress, not_told
from evaluators.vlm.ask import Replies


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """Who answers, and which images there must be.

    Args:
        model: as of `ModelOptions`.
        prompts: the set that the folder must hold: `official`, `bagel-long`, a file, or its rows in order (default: GenEval's 553
            prompts, by the folder's own metadata).
        images_per_prompt: images of each prompt.
    """

    prompts: Path | str | Sequence[dict[str, Any]] | None = None
    images_per_prompt: int = IMAGES_PER_PROMPT

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "images_per_prompt")


@dataclass(frozen=True)
class _Asked:
    found: Scan
    prompt_set: str
    judge: dict[str, str]
    replies: Replies


def evaluate(images: Path | str, options: Options, *, progress: Progress = no_progress, tell: Tell = not_told) -> Evaluation:
    """Scores a folder of images in GenEval's layout by questions; the result is not GenEval's score.

    With `options.out` it keeps the replies there, and writes `geneval-vlm.items.jsonl` (an image a line), `geneval-vlm.json` (the
    result), and `geneval-vlm-problems.txt` where something is amiss with the images.

    Args:
        progress: called with what is being done, how much of it is done, and how much there is.
        tell: called with lines on what is amiss.

    Raises:
        UserError: images or replies are missing and `partial` is off, or the model cannot be loaded or asked.
    """
    with kept_in(options.out) as out:
        asked = _ask(Path(images), options, out, ALL, progress, tell)
    result, rows = score(
        asked.found, asked.replies, prompt_set=asked.prompt_set, judge=asked.judge, partial=options.partial
    )  # fmt: skip
    scored = Evaluation.of(result, rows, problems=asked.found.problems)
    return scored if options.out is None else scored.write(out, NAME)


def evaluate_share(
    images: Path | str, options: Options, share: Share, *, progress: Progress = no_progress, tell: Tell = not_told
) -> int:
    """Asks one of several shares of the questions; `evaluate` scores when all have been asked.

    Args:
        share: (index, count).

    Returns:
        How many questions failed; they are asked again when it is scored.

    Raises:
        UserError: as `evaluate`, or `out` is not given.
    """
    return len(_ask(Path(images), options, options.require_out(), share, progress, tell).replies.failures)


def _ask(images: Path, options: Options, out: Path, share: Share, progress: Progress, tell: Tell) -> _Asked:
    reference = load(str(options.prompts)) if isinstance(options.prompts, Path | str) else options.prompts
    found = scan(
        images, reference, images_per_prompt=options.images_per_prompt, progress=counting(progress, "read images")
    )  # fmt: skip
    options.require_images(found, NAME, tell)
    prompt_set = identify([found.prompts[prompt_id] for prompt_id in sorted(found.prompts)])
    model = options.load()
    replies = judge_images(
        found, model, out / f"{NAME}.replies.jsonl", prompt_set=prompt_set, batch_size=options.questions_at_once, shard=share,
        progress=counting(progress, NAME),
    )  # fmt: skip
    judge = evaluator(options.judge_name(model), model, options.questions_at_once)
    return _Asked(found, prompt_set, judge, replies)
