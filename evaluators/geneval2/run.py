"""GenEval 2 on a folder or list of images: find, ask, score."""

from dataclasses import dataclass
from pathlib import Path

from evaluators.geneval.folder import Scan
from evaluators.geneval2.data import NAME, Item, identify, load
from evaluators.geneval2.images import find_images
from evaluators.geneval2.judge import evaluator, judge_images, score, score_lists
from evaluators.geneval2.options import ImageOptions
from evaluators.results import ALL, Evaluation, Progress, Share, Tell, counting, kept_in, no_progress, not_told
from evaluators.vlm.ask import Replies
from rf_repro.core.files import write_json


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """Who answers, and which prompts the images are of.

    Args:
        model: as of `ModelOptions`.
        data: prompts and questions: `geneval2`, once fetched, or a file in its schema.
    """

    data: Path | str = NAME


@dataclass(frozen=True)
class _Asked:
    found: Scan
    items: list[Item]
    data: str
    judge: dict[str, str]
    replies: Replies


def evaluate(images: Path | str, options: Options, *, progress: Progress = no_progress, tell: Tell = not_told) -> Evaluation:
    """Scores one image of each prompt: a JSON file of {prompt: image path}, or a folder that `rf-repro sample` made.

    With `options.out` it keeps the replies there, and writes `geneval2.items.jsonl` (an image a line), `geneval2.json` (the
    result), `geneval2-score-lists.json` for the official analysis where no prompt is left out, and `geneval2-problems.txt` where
    something is amiss with the images.

    Args:
        progress: called with what is being done, how much of it is done, and how much there is.
        tell: called with lines on what is amiss.

    Raises:
        UserError: images or replies are missing and `partial` is off, or the model cannot be loaded or asked.
    """
    with kept_in(options.out) as out:
        asked = _ask(Path(images), options, out, ALL, progress, tell)
    result, rows = score(
        asked.found, asked.items, asked.replies, data=asked.data, judge=asked.judge, partial=options.partial
    )  # fmt: skip
    if options.out is not None and result.n == result.expected_n:
        write_json(out / f"{NAME}-score-lists.json", score_lists(rows))
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
    items = load(str(options.data))
    data = identify(items, str(options.data))
    found = find_images(images, items, counting(progress, "read images"))
    options.require_images(found, NAME, tell)
    model = options.load()
    replies = judge_images(
        found, items, model, out / f"{NAME}.replies.jsonl", data=data, batch_size=options.questions_at_once, shard=share,
        progress=counting(progress, NAME),
    )  # fmt: skip
    judge = evaluator(options.judge_name(model), model, options.questions_at_once)
    return _Asked(found, items, data, judge, replies)
