"""From verdicts on images to GenEval's numbers, and the identity of the protocol behind them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from evaluators.geneval.metadata import TASKS
from evaluators.geneval.options import GenEvalOptions
from rf_repro.core.hashing import content_hash


def summarize(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float | None], dict[str, str]]:
    """(metrics, reason for each metric that is None) of per-image rows with prompt_id, tag and correct.

    Rows whose `correct` is None were not scored and count in no mean. Metrics, all fractions:
        a name per task: share of its images that are correct. GenEval's six always, then other tags found;
        overall: unweighted mean of the tasks, however many images each has. None when any task has no score, for a
            mean over fewer tasks is another number;
        images_correct: share of all images; prompts_correct_any: share of prompts with at least one correct image.
    """
    by_task: dict[str, list[bool]] = defaultdict(list)
    by_prompt: dict[int, list[bool]] = defaultdict(list)
    unscored = Counter(row["tag"] for row in rows if row["correct"] is None)
    for row in rows:
        if row["correct"] is not None:
            by_task[row["tag"]].append(row["correct"])
            by_prompt[row["prompt_id"]].append(row["correct"])

    metrics: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    tasks = [*TASKS, *sorted({row["tag"] for row in rows} - set(TASKS))]
    for task in tasks:
        metrics[task] = _mean(by_task[task])
        if not by_task[task]:
            missing[task] = f"none of its {unscored[task]} images could be read" if unscored[task] else "no image of this task"

    scores = [score for score in metrics.values() if score is not None]
    metrics["overall"] = fmean(scores) if len(scores) == len(tasks) else None
    if missing:
        missing["overall"] = f"no score for {', '.join(missing)}"
    metrics["images_correct"] = _mean([correct for task in tasks for correct in by_task[task]])
    metrics["prompts_correct_any"] = _mean([any(group) for group in by_prompt.values()])
    if not by_prompt:
        missing["images_correct"] = missing["prompts_correct_any"] = "no image could be scored"
    return metrics, missing


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def protocol_id(options: GenEvalOptions, images_of: Mapping[tuple[str, str], int]) -> str:
    """`geneval-` and 8 hex digits, which stand for the rules' options and the prompt set.

    Args:
        images_of: (tag, prompt) -> number of images asked for. Order does not matter.
    """
    prompts = sorted([tag, prompt, count] for (tag, prompt), count in images_of.items())
    return "geneval-" + content_hash({"options": asdict(options), "prompts": prompts})[:8]
