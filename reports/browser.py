"""The data of the page's image browser: what was asked, what was drawn, what the detector saw, and the verdict's reason.

Every run shows up to `COLUMNS` images a task spread over the prompts, up to `COLUMNS` more that were judged wrong, and up
to `COLUMNS` that could not be scored: the images of its sheets (`reports.contact_sheet`), so that a page from shipped runs
equals one from the runs themselves. Colours of the thumbnails are reduced to `THUMBNAIL_COLORS` a sheet.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from ablations.grid import GENEVAL
from reports.contact_sheet import COLUMNS, Item, Sheet, evenly, read_sheets
from reports.runs import Run
from reports.tables import Table
from reports.training import RunRow
from rf_repro.core.shown import one_line_each

THUMBNAIL_COLORS = 128
KINDS = {
    "missing_object": "object missing",
    "wrong_color": "wrong colour",
    "wrong_position": "wrong place",
    "extra_object": "object too many",
    "unreadable": "not scored",
}


@dataclass(frozen=True)
class Browser:
    """`data` goes to the page as JSON; `sprites[i]` is the PNG that `data`'s sheet number i means."""

    data: dict[str, Any]
    sprites: tuple[bytes, ...]
    shown: int
    total: int
    summary: Table

    def to_json(self) -> str:
        """JSON that is inert inside a script element, whatever prompts and reasons hold."""
        return inert_json(self.data)

    def uris(self) -> list[str]:
        """The sprites as data URIs."""
        return [f"data:image/png;base64,{b64encode(png).decode('ascii')}" for png in self.sprites]


def inert_json(value: Any) -> str:
    """JSON that is inert inside a script element, whatever its texts hold."""
    text = json.dumps(one_line_each(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def make_browser(rows: Sequence[RunRow], scale_label: str) -> Browser | None:
    """The browser over every scored run; None when there is none."""
    texts: dict[str, int] = {}
    runs: list[dict[str, Any]] = []
    sprites: list[bytes] = []
    scored = [row for row in rows if any(GENEVAL.evaluation in run.results for run in row.runs.values())]
    for number, row in enumerate(scored):
        for seed, run in row.runs.items():
            if GENEVAL.evaluation not in run.results:
                continue
            items = run.items(GENEVAL.evaluation)
            entries = []
            for sheet in read_sheets(run.dir, items, GENEVAL.tasks).values():
                entries += [_pictured(item, texts, sheet, len(sprites)) for row in sheet.rows.values() for item in row]
                sprites.append(_sprite(sheet.image))
            for task in GENEVAL.tasks:
                unscored = [item for item in items if item["tag"] == task and item["correct"] is None]
                entries += [_entry(item, texts, None, None) for item in evenly(unscored, COLUMNS)]
            runs.append({"variant": number, "seed": seed, "of": len(items), "items": entries})
    if not scored:
        return None
    data = {
        "columns": COLUMNS,
        "tasks": [task.replace("_", " ") for task in GENEVAL.tasks],
        "variants": [row.label for row in scored],
        "texts": list(texts),
        "runs": runs,
    }
    return Browser(
        data, tuple(sprites), shown=sum(len(run["items"]) for run in runs), total=sum(run["of"] for run in runs),
        summary=_failures_table(scored, scale_label),
    )  # fmt: skip


def _pictured(item: Item, texts: dict[str, int], sheet: Sheet, number: int) -> list[Any]:
    """The entry of an item in a sheet, of which it says so where the image is not the one that was scored."""
    key = item["prompt_id"], item["sample"]
    if key in sheet.changed:
        return _entry(
            {**item, "reason": f"{item.get('reason') or 'judged correct'}; the image is {sheet.changed[key]}"}, texts, None, None
        )
    return _entry(item, texts, _boxes(item, sheet), [number, *sheet.places()[key]])


def _entry(item: Item, texts: dict[str, int], boxes: list[Any] | None, place: list[int] | None) -> list[Any]:
    """[task, prompt, reason, verdict (1, 0, or -1 for not scored), sample, [sheet, row, column], boxes]; texts by number."""
    verdict = -1 if item["correct"] is None else int(item["correct"])
    prompt, reason = (texts.setdefault(str(text), len(texts)) for text in (item["prompt"], item.get("reason") or ""))
    return [GENEVAL.tasks.index(item["tag"]), prompt, reason, verdict, item["sample"], place, boxes]


def _boxes(item: Item, sheet: Sheet) -> list[list[Any]] | None:
    """[class, left, top, width, height, score] in fractions of the image; None when the record holds none."""
    if sheet.image_size is None or "details" not in item:
        return None
    width, height = sheet.image_size
    return [
        [name, round(x1 / width, 3), round(y1 / height, 3), round((x2 - x1) / width, 3), round((y2 - y1) / height, 3),
         round(score, 2)]
        for name, found in item["details"].items()
        for x1, y1, x2, y2, score in found
    ]  # fmt: skip


def _sprite(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.quantize(THUMBNAIL_COLORS, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _failures_table(rows: Sequence[RunRow], scale_label: str) -> Table:
    """What goes wrong in all images of each variant, by kind of the first unmet clause."""
    shares = [(row, *_kinds([run for run in row.runs.values() if GENEVAL.evaluation in run.results])) for row in rows]
    return Table(
        name="failures",
        title=f"Kinds of failure, {scale_label}",
        caption="Share of all images of a variant, over its seeds, whose first unmet clause is of that kind.",
        header=("Variant", "Images", "Correct", *(label.capitalize() for label in KINDS.values())),
        rows=tuple(
            (
                row.label,
                f"{total:,}",
                f"{counts.get('', 0) / total:.3f}",
                *(f"{counts.get(kind, 0) / total:.3f}" for kind in KINDS),
            )
            for row, counts, total in shares
        ),
        records=tuple(
            {"row": row.key, "kind": kind or "correct", "images": counts.get(kind, 0), "of": total}
            for row, counts, total in shares
            for kind in ("", *KINDS)
        ),
    )


def _kinds(runs: Sequence[Run]) -> tuple[Mapping[str, int], int]:
    """Kind of failure ("": correct) -> images, and all images."""
    counts: dict[str, int] = {}
    for run in runs:
        for item in run.items(GENEVAL.evaluation):
            kind = "" if item["correct"] else item["failure"]
            counts[kind] = counts.get(kind, 0) + 1
    return counts, sum(counts.values())
