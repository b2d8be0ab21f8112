"""`results.jsonl` as the official script writes it, for the scripts of others that read it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rf_repro.core.files import write_jsonl
from rf_repro.core.image_folder import ImageFolder


def write_official_results(path: Path, folder: ImageFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one line an image: filename, tag, prompt, correct, reason, and as JSON texts metadata and details.

    Args:
        rows: per-image rows of `evaluate_folder` on `folder`. Images that were not scored are left out, since the
            format has no way to say so and readers take the mean over all lines.
    """
    prompts = dict(folder.prompts())
    lines = [
        {
            "filename": str(folder.image_path(row["prompt_id"], row["sample"])),
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
