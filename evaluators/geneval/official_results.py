"""`results.jsonl` and the summary as the official scripts write them, for the scripts and the eyes of others."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rf_repro.core.files import write_jsonl


def write_official_results(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[int, Mapping[str, Any]],
    image_path: Callable[[int, int], Path],
) -> None:
    """Writes one line an image: filename, tag, prompt, correct, reason, and as JSON texts metadata and details.

    Args:
        rows: an image each. Images that were not scored are left out, since the format has no way to say so and readers
            take the mean over all lines.
        prompts: prompt id -> metadata.
        image_path: (prompt id, sample) -> the image's file.
    """
    lines = [
        {
            "filename": str(image_path(row["prompt_id"], row["sample"])),
            "tag": row["tag"],
            "prompt": row["prompt"],
            "correct": row["correct"],
            "reason": row["reason"],
            "metadata": json.dumps(prompts[row["prompt_id"]]),
            "details": json.dumps(row["details"]),
        }
        for row in rows
        if row["correct"] is not None
    ]
    write_jsonl(path, lines)


def official_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the official `summary_scores.py` prints of these rows, tasks in order of appearance; unscored rows are left out."""
    rows = [row for row in rows if row["correct"] is not None]
    by_prompt: dict[int, list[bool]] = {}
    by_task: dict[str, list[bool]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row["correct"])
        by_task.setdefault(row["tag"], []).append(row["correct"])
    scores = {task: sum(correct) / len(correct) for task, correct in by_task.items()}
    tasks = [f"{task:<16} = {scores[task]:.2%} ({sum(right)} / {len(right)})" for task, right in by_task.items()]
    images, prompts = sum(row["correct"] for row in rows), sum(any(right) for right in by_prompt.values())
    return "\n".join(
        [
            "Summary", "=======", f"Total images: {len(rows)}", f"Total prompts: {len(by_prompt)}",
            f"% correct images: {images / len(rows):.2%}", f"% correct prompts: {prompts / len(by_prompt):.2%}", "",
            "Task breakdown", "==============", *tasks, "",
            f"Overall score (avg. over tasks): {sum(scores.values()) / len(scores):.5f}",
        ]
    )  # fmt: skip
