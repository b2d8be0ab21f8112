"""The same prompts drawn by several variants, as the paper's Figure 4, and one variant's samples, as its Figure 2."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ablations.grid import Column
from reports.contact_sheet import COLUMNS, Sheet, evenly, show_images
from reports.figures import FONTS
from reports.tables import Table

ACROSS = 8  # images in a row of the figure, shared by the variants of each prompt
IMAGE = 120  # pixels a side at which an image is drawn
GAP = 4  # between the images of one prompt
MARGIN = 18
CAPTION = 46  # pixels: a line of verdicts, then two of prompt
LABELS = 110  # pixels for the task names at the left


@dataclass(frozen=True)
class Case:
    """One prompt and sample drawn by several variants: item rows and images, in the variants' order."""

    task: str
    items: tuple[Mapping[str, Any], ...]
    images: tuple[Image.Image, ...]


def prompts_across(variants: int) -> int:
    """Prompts of each task that a figure of so many variants shows."""
    return max(1, ACROSS // variants)


def choose_cases(column: Column, items: Sequence[Sequence[Mapping[str, Any]]], sheets: Sequence[Sheet]) -> list[Case]:
    """Prompts of each task, evenly spread over those in every variant's sheet: nothing is picked by eye."""
    by_key = [{(row["prompt_id"], row["sample"]): row for row in rows} for rows in items]
    images = [show_images(sheet) for sheet in sheets]
    cases = []
    for task in column.tasks:
        keys = [
            key
            for key in images[0]
            if by_key[0][key]["tag"] == task
            and all(key in drawn for drawn in images)
            and len({rows[key]["prompt"] for rows in by_key}) == 1
        ]
        cases += [
            Case(task, tuple(rows[key] for rows in by_key), tuple(drawn[key] for drawn in images))
            for key in evenly(keys, prompts_across(len(sheets)))
        ]
    return cases


def side_by_side_figure(cases: Sequence[Case], labels: Sequence[str]) -> bytes:
    """PNG of the cases, a row a task; small images are enlarged by whole pixels (nearest neighbour). ✓ and ✗ are the
    evaluator's verdicts."""
    tasks, across = list(dict.fromkeys(case.task for case in cases)), prompts_across(len(labels))
    width, height = len(labels) * (IMAGE + GAP) - GAP + MARGIN, IMAGE + CAPTION + MARGIN
    canvas = Image.new("RGB", (LABELS + across * width + MARGIN, 30 + len(tasks) * height), "white")
    draw = ImageDraw.Draw(canvas)
    plain, bold, mark_font = _font("DejaVuSans.ttf", 11), _font("DejaVuSans-Bold.ttf", 12), _font("DejaVuSans-Bold.ttf", 15)
    for column in range(across):
        for side, label in enumerate(labels):
            x = LABELS + column * width + side * (IMAGE + GAP) + IMAGE // 2
            draw.text((x, 18), label, fill="#222222", font=bold, anchor="mm")
    for y, task in enumerate(tasks):
        top = 30 + y * height
        draw.text((MARGIN, top + IMAGE // 2), task.replace("_", "\n"), fill="#222222", font=bold, anchor="lm")
        for x, case in enumerate(case for case in cases if case.task == task):
            left = LABELS + x * width
            for side, (image, item) in enumerate(zip(case.images, case.items, strict=True)):
                corner = left + side * (IMAGE + GAP)
                canvas.paste(_fit(image), (corner, top))
                _mark(draw, (corner + IMAGE // 2, top + IMAGE + 9), item, mark_font)
            text = _wrapped(str(case.items[0]["prompt"]), (width - MARGIN) // 7)
            draw.multiline_text((left, top + IMAGE + 18), text, fill="#444444", font=plain, spacing=2)
    return _png(canvas)


def samples_figure(sheet: Sheet, tasks: Sequence[str]) -> bytes:
    """PNG of a whole contact sheet, a row a task, enlarged, with the evaluator's verdict under each image."""
    shown = show_images(sheet)
    edge, line = 84, 22
    canvas = Image.new("RGB", (LABELS + COLUMNS * (edge + GAP) + MARGIN, MARGIN + len(tasks) * (edge + line)), "white")
    draw = ImageDraw.Draw(canvas)
    bold, mark_font = _font("DejaVuSans-Bold.ttf", 12), _font("DejaVuSans-Bold.ttf", 12)
    for y, (task, row) in enumerate(sheet.rows.items()):
        top = MARGIN + y * (edge + line)
        draw.text((MARGIN, top + edge // 2), task.replace("_", "\n"), fill="#222222", font=bold, anchor="lm")
        for x, item in enumerate(row):
            corner = (LABELS + x * (edge + GAP), top)
            canvas.paste(_fit(shown[item["prompt_id"], item["sample"]], edge), corner)
            _mark(draw, (corner[0] + edge // 2, top + edge + 9), item, mark_font)
    return _png(canvas)


def examples_table(name: str, cases: Sequence[Case], labels: Sequence[str]) -> Table:
    """The verdicts on the pictured images, in words."""
    header = ("Task", "Prompt", *labels)
    rows = tuple(
        (case.task.replace("_", " "), str(case.items[0]["prompt"]), *(_verdict(item) for item in case.items)) for case in cases
    )
    return Table(
        name=name,
        title="Verdicts on the pictured images",
        caption="The evaluator's reasons, in its own words.",
        header=header,
        rows=rows,
        records=tuple(dict(zip(header, row, strict=True)) for row in rows),
        printed=False,
    )


def _verdict(item: Mapping[str, Any]) -> str:
    return "correct" if item["correct"] else "wrong: " + str(item["reason"]).replace("\n", "; ")


def _mark(draw: ImageDraw.ImageDraw, at: tuple[int, int], item: Mapping[str, Any], font: ImageFont.FreeTypeFont) -> None:
    mark, color = ("✓", "#1a7f37") if item["correct"] else ("✗", "#b42318")
    draw.text(at, mark, fill=color, font=font, anchor="mm")


def _wrapped(text: str, width: int) -> str:
    lines = textwrap.wrap(text, width)
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")


def _fit(image: Image.Image, edge: int = IMAGE) -> Image.Image:
    """The image on a square of `edge` pixels: enlarged by a whole factor where it fits, else scaled down."""
    factor = edge // max(image.size)
    if factor >= 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image = image.resize((edge, edge), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (edge, edge), "white")
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    return square


def _png(canvas: Image.Image) -> bytes:
    buffer = BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{FONTS}/{name}", size)
