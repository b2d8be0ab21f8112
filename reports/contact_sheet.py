"""A few images of each run in one PNG, in a layout so fixed that the run's item file is enough to find each image.

One row a task, `COLUMNS` square cells a row. Which images fill a row follows from the items alone (`sheet_rows`), so the
same function places them here and finds them again in a shipped sheet, and two variants on one prompt set show the
same prompts in the same cells.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from PIL import Image

from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir

T = TypeVar("T")
COLUMNS = 12
MAX_CELL = 128  # pixels; larger images are scaled down to keep a sheet small


def sheet_rows(items: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Task -> the scored items in its row, up to `COLUMNS`.

    One image each of prompts evenly spread over the task's; a task with fewer prompts goes on with second images, and so on.
    """
    seen: Counter[tuple[str, str]] = Counter()
    ranked: dict[str, list[tuple[int, Mapping[str, Any]]]] = {task: [] for task in tasks}
    for row in sorted(items, key=lambda row: (row["prompt_id"], row["sample"])):
        if row["tag"] in ranked and row["correct"] is not None:
            ranked[row["tag"]].append((seen[row["tag"], row["prompt"]], row))
            seen[row["tag"], row["prompt"]] += 1
    chosen = {}
    for task, rows in ranked.items():
        first = [row for rank, row in rows if rank == 0]
        chosen[task] = evenly(first, COLUMNS) if len(first) >= COLUMNS else [row for _, row in sorted(rows, key=_rank)][:COLUMNS]
    return chosen


def evenly(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, evenly spread, the first among them."""
    count = min(most, len(values))
    return [values[index * len(values) // count] for index in range(count)]


def _rank(pair: tuple[int, Any]) -> int:
    return pair[0]


def make_contact_sheet(folder: ImageFolder, items: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Image.Image:
    """The sheet, RGB, cells of the images' own size up to `MAX_CELL`; cells without an image are white.

    Raises:
        UserError: there are no items, or an image they name is missing or unreadable.
    """
    rows = sheet_rows(items, tasks)
    images = {
        (y, x): _open(folder, item) for y, task in enumerate(tasks) for x, item in enumerate(rows[task])
    }  # fmt: skip
    if not images:
        raise UserError(f"{folder.path}: no images to show; run the evaluation again")
    cell = min(MAX_CELL, max(max(image.size) for image in images.values()))
    sheet = Image.new("RGB", (COLUMNS * cell, len(tasks) * cell), "white")
    for (y, x), image in images.items():
        if image.size != (cell, cell):
            image = image.resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(image, (x * cell, y * cell))
    return sheet


def show_images(run: RunDir, items: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[tuple[int, int], Image.Image]:
    """(prompt id, sample) -> image of everything in the run's sheet, from its samples, else from `contact_sheet.png`.

    Empty when the run has neither.
    """
    path = run.path / "contact_sheet.png"
    if ImageFolder(run.samples).is_complete():
        sheet = make_contact_sheet(ImageFolder(run.samples), items, tasks)
    elif path.exists():
        with Image.open(path) as file:
            sheet = file.convert("RGB")
    else:
        return {}
    cell = sheet.width // COLUMNS
    if sheet.size != (COLUMNS * cell, len(tasks) * cell):
        raise UserError(f"{path}: {sheet.size} pixels is not {len(tasks)} rows of {COLUMNS} squares; ship the results again")
    return {
        (item["prompt_id"], item["sample"]): sheet.crop((x * cell, y * cell, (x + 1) * cell, (y + 1) * cell))
        for y, (_, row) in enumerate(sheet_rows(items, tasks).items())
        for x, item in enumerate(row)
    }


def _open(folder: ImageFolder, item: Mapping[str, Any]) -> Image.Image:
    path = folder.image_path(item["prompt_id"], item["sample"])
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: cannot read the image ({error}); run the sampling again") from error
