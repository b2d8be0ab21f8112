"""The same prompts without and with RF, as the paper's Figure 4: a row a task, pairs of images of one prompt and sample."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from ablations.grid import Column
from reports.collect import RowScores
from reports.contact_sheet import evenly
from reports.tables import Table

PAIRS = 4  # a task
IMAGE = 120  # pixels a side at which an image is drawn
GAP = 4  # between the two images of a pair
MARGIN = 18
CAPTION = 46  # pixels: a line of verdicts, then two of prompt
LABELS = 110  # pixels for the task names at the left


@dataclass(frozen=True)
class Pair:
    """One prompt and sample drawn by two variants: item rows and images, the variant without RF first."""

    task: str
    items: tuple[Mapping[str, Any], Mapping[str, Any]]
    images: tuple[Image.Image, Image.Image]


def choose_pairs(
    column: Column,
    sides: tuple[RowScores, RowScores],
    images: tuple[Mapping[tuple[int, int], Image.Image], Mapping[tuple[int, int], Image.Image]],
    seed: int,
) -> list[Pair]:
    """`PAIRS` prompts of each task, evenly spread over those in both variants' sheets: nothing is picked by eye."""
    by_key = [{(row["prompt_id"], row["sample"]): row for row in side.items[seed]} for side in sides]
    pairs = []
    for task in column.tasks:
        keys = [key for key in images[0] if key in images[1] and by_key[0][key]["tag"] == task
                and by_key[1][key]["prompt"] == by_key[0][key]["prompt"]]  # fmt: skip
        pairs += [
            Pair(task, (by_key[0][key], by_key[1][key]), (images[0][key], images[1][key])) for key in evenly(keys, PAIRS)
        ]  # fmt: skip
    return pairs


def side_by_side_figure(pairs: Sequence[Pair], labels: tuple[str, str]) -> bytes:
    """PNG of the pairs; small images are enlarged by whole pixels (nearest neighbour). ✓ and ✗ are the evaluator's verdicts."""
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    width, height = 2 * IMAGE + GAP + MARGIN, IMAGE + CAPTION + MARGIN
    canvas = Image.new("RGB", (LABELS + PAIRS * width + MARGIN, 30 + len(tasks) * height), "white")
    draw = ImageDraw.Draw(canvas)
    plain, bold, mark_font = _font("DejaVuSans.ttf", 11), _font("DejaVuSans-Bold.ttf", 12), _font("DejaVuSans-Bold.ttf", 15)
    for column in range(PAIRS):
        for side, label in enumerate(labels):
            x = LABELS + column * width + side * (IMAGE + GAP) + IMAGE // 2
            draw.text((x, 18), label, fill="#222222", font=bold, anchor="mm")
    for y, task in enumerate(tasks):
        top = 30 + y * height
        draw.text((MARGIN, top + IMAGE // 2), task.replace("_", "\n"), fill="#222222", font=bold, anchor="lm")
        for x, pair in enumerate(pair for pair in pairs if pair.task == task):
            left = LABELS + x * width
            for side, (image, item) in enumerate(zip(pair.images, pair.items, strict=True)):
                corner = left + side * (IMAGE + GAP)
                canvas.paste(_fit(image), (corner, top))
                mark, color = ("✓", "#1a7f37") if item["correct"] else ("✗", "#b42318")
                draw.text((corner + IMAGE // 2, top + IMAGE + 9), mark, fill=color, font=mark_font, anchor="mm")
            lines = textwrap.wrap(str(pair.items[0]["prompt"]), 36)
            text = "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")
            draw.multiline_text((left, top + IMAGE + 18), text, fill="#444444", font=plain, spacing=2)
    buffer = BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def examples_table(name: str, pairs: Sequence[Pair], labels: tuple[str, str]) -> Table:
    """The verdicts on the pictured images, in words."""
    header = ("Task", "Prompt", *labels)
    rows = tuple(
        (pair.task.replace("_", " "), str(pair.items[0]["prompt"]), *(_verdict(item) for item in pair.items)) for pair in pairs
    )
    return Table(
        name=name,
        title="Verdicts on the pictured images",
        caption="The evaluator's reasons, in its own words.",
        header=header,
        rows=rows,
        records=tuple(dict(zip(header, row, strict=True)) for row in rows),
    )


def _verdict(item: Mapping[str, Any]) -> str:
    return "correct" if item["correct"] else "wrong: " + str(item["reason"]).replace("\n", "; ")


def _fit(image: Image.Image) -> Image.Image:
    """The image on a square of `IMAGE` pixels: enlarged by a whole factor where it fits, else scaled down."""
    factor = IMAGE // max(image.size)
    if factor >= 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image = image.resize((IMAGE, IMAGE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (IMAGE, IMAGE), "white")
    square.paste(image, ((IMAGE - image.width) // 2, (IMAGE - image.height) // 2))
    return square


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}", size)  # matplotlib ships it: the same on every machine
