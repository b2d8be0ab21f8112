"""VLM-judged GenEval's numbers from the scores of images, task by task as GenEval has them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from evaluators.geneval.metadata import TASKS
from evaluators.geneval2.soft_tifa import interval

SCORES = {"am": "soft_tifa_am", "gm": "soft_tifa_gm", "hard": "correct"}  # ending of a metric -> field of a row


def summarize(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float | None], dict[str, str]]:
    """(metrics, reason for each metric that is None) of rows as `judge.score` makes them; those without a score count nowhere.

    Metrics, fractions, for each of am and gm (Soft-TIFA) and hard (share of images whose questions all have the right likeliest
    answer):
        TASK_am, ...: means over the task's images. GenEval's six always, then other tags found;
        overall_am, ...: unweighted mean of the tasks, with `_low` and `_high`, a 95% bootstrap over the prompts of each task.
            None when any task has no score.
    """
    scored = [row for row in rows if row["correct"] is not None]
    tasks = [*TASKS, *sorted({row["tag"] for row in rows} - set(TASKS))]
    metrics: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for ending, field in SCORES.items():
        images: dict[str, list[float]] = defaultdict(list)
        prompts: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in scored:
            images[row["tag"]].append(float(row[field]))
            prompts[row["tag"]][row["prompt_id"]].append(float(row[field]))
        for task in tasks:
            metrics[f"{task}_{ending}"] = fmean(images[task]) if images[task] else None
        absent = [task for task in tasks if not images[task]]
        overall = f"overall_{ending}"
        low, high = (None, None) if absent else interval([list(map(fmean, prompts[task].values())) for task in tasks])
        metrics |= {
            overall: None if absent else fmean(fmean(images[task]) for task in tasks),
            f"{overall}_low": low,
            f"{overall}_high": high,
        }
        missing |= {f"{task}_{ending}": "no image of this task was scored" for task in absent}
        if absent:
            missing |= {f"{overall}{part}": f"no score for {', '.join(absent)}" for part in ("", "_low", "_high")}
    return metrics, missing
