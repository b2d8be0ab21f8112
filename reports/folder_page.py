"""A scored folder of images as one HTML page: its tables, and every image with boxes, masks and the verdict's reason.

Tables, boxes and masks are in the page; images are not copied but read from the scored folder, so the page stays small.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from reports.browser import KINDS, inert_json
from reports.folder_insight import Rows, nearly_right
from reports.html import template
from reports.tables import Table

Masks = Callable[[Mapping[str, Any]], Mapping[str, Sequence[str]]]  # row -> class -> base64 PNG of each box in its details
NEAR_LABEL = "near the threshold"


def render_folder_page(
    rows: Rows,
    tables: Sequence[Table],
    *,
    title: str,
    introduction: Sequence[str],
    problems: Sequence[str],
    tasks: Sequence[str],
    thresholds: Mapping[str, float],
    image: Callable[[Mapping[str, Any]], tuple[Path, int, int]],
    masks: Masks,
    out: Path,
) -> str:
    """The page's HTML; prompts, reasons and names are escaped.

    Args:
        thresholds: task -> score that an object has to exceed to count.
        image: row -> the image's file with its width and height in pixels.
        out: folder the page will stand in; images are addressed from there.
    """
    texts: dict[str, int] = {}
    items = [_entry(row, texts, tasks, thresholds, image(row), masks(row), out) for row in rows]
    data = {
        "columns": 1,
        "tasks": [task.replace("_", " ") for task in tasks],
        "variants": [],
        "texts": list(texts),
        "runs": [{"variant": 0, "seed": 0, "items": items}],
    }
    kinds = [label for kind, label in KINDS.items() if kind != "unreadable"]
    return template("folder.html.j2").render(
        title=title, introduction=introduction, tables=tables, problems=problems, kinds=[*kinds, NEAR_LABEL],
        browser_json=Markup(inert_json(data)),
    )  # fmt: skip


def _entry(
    row: Mapping[str, Any],
    texts: dict[str, int],
    tasks: Sequence[str],
    thresholds: Mapping[str, float],
    image: tuple[Path, int, int],
    masks: Mapping[str, Sequence[str]],
    out: Path,
) -> list[Any]:
    """[task, prompt, reason, verdict, sample, [address, width, height], boxes, kinds], as the page's script reads them."""
    path, width, height = image
    prompt, reason = (texts.setdefault(text, len(texts)) for text in (row["prompt"], row["reason"]))
    boxes = [
        [name, round(x1 / width, 4), round(y1 / height, 4), round((x2 - x1) / width, 4), round((y2 - y1) / height, 4),
         round(score, 2), *masks.get(name, ())[i : i + 1]]
        for name, found in row["details"].items()
        for i, (x1, y1, x2, y2, score) in enumerate(found)
    ]  # fmt: skip
    kinds = [KINDS[row["failure"]]] if row["failure"] else []
    if nearly_right(row, thresholds[row["tag"]]):
        kinds.append(NEAR_LABEL)
    address = quote(Path(os.path.relpath(path, out)).as_posix())
    return [tasks.index(row["tag"]), prompt, reason, int(row["correct"]), row["sample"], [address, width, height], boxes, kinds]
