"""Some images of each run in two PNGs, in a layout so fixed that the run's item file is enough to find each image.

One row a task, `COLUMNS` square cells a row. `contact_sheet.png` shows images evenly spread over the prompts, right and
wrong alike; `wrong_sheet.png` further ones that the evaluator judged wrong. Which images fill a row follows from the items
alone (`sheet_rows`, `wrong_rows`), so the same functions place them here and find them again in shipped sheets, and two
variants on one prompt set show the same prompts in the same cells of the first sheet.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from rf_repro.core.untrusted.image_header import decoded_image
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, CorruptSample

T = TypeVar("T")
Item = Mapping[str, Any]
Rows = dict[str, list[Item]]
COLUMNS = 12
CHANGED = "not the one that was scored (its SHA-256 is not the one in manifest.json)"
MAX_CELL = 128  # pixels; larger images are scaled down to keep a sheet small


def sheet_rows(items: Sequence[Item], tasks: Sequence[str]) -> Rows:
    """Task -> the scored items in its row of the first sheet, up to `COLUMNS`.

    One image each of prompts evenly spread over the task's; a task with fewer prompts goes on with second images, and so on.
    """
    return _spread([row for row in items if row["correct"] is not None], tasks)


def wrong_rows(items: Sequence[Item], tasks: Sequence[str]) -> Rows:
    """Task -> the items in its row of the second sheet: up to `COLUMNS` judged wrong, spread alike, none of the first sheet."""
    shown = {_key(item) for row in sheet_rows(items, tasks).values() for item in row}
    return _spread([row for row in items if row["correct"] is False and _key(row) not in shown], tasks)


SHEETS: dict[str, Callable[[Sequence[Item], Sequence[str]], Rows]] = {
    "contact_sheet.png": sheet_rows,
    "wrong_sheet.png": wrong_rows,
}


def _spread(items: Sequence[Item], tasks: Sequence[str]) -> Rows:
    seen: Counter[tuple[str, str]] = Counter()
    ranked: dict[str, list[tuple[int, Item]]] = {task: [] for task in tasks}
    for row in sorted(items, key=_key):
        if row["tag"] in ranked:
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


def _key(item: Item) -> tuple[int, int]:
    return item["prompt_id"], item["sample"]


@dataclass(frozen=True)
class Sheet:
    """RGB cells of the images' own size up to `MAX_CELL`, white where there is none; `rows` says what each cell shows.

    `image_size`: width and height of the images themselves, in whose pixels boxes are given; None when they differ. `changed`:
    (prompt id, sample) -> why the image is not shown but crossed out: it is gone, or not the one that was scored.
    """

    image: Image.Image
    rows: Rows
    image_size: tuple[int, int] | None
    changed: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @property
    def cell(self) -> int:
        return self.image.width // COLUMNS

    def places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(prompt id, sample) -> (row, column)."""
        return {_key(item): (y, x) for y, row in enumerate(self.rows.values()) for x, item in enumerate(row)}

    def save(self, path: Path) -> None:
        """Writes the PNG atomically, with the images' size in its text."""
        info = PngInfo()
        info.add_text("image_size", " ".join(map(str, self.image_size or ())))
        with atomic_path(path) as temporary:
            self.image.save(temporary, format="PNG", optimize=True, pnginfo=info)


def make_sheet(folder: ImageFolder, rows: Rows) -> Sheet | None:
    """The sheet of those items; None when there are none. Images are held to the SHA-256 of the folder's manifest.

    Raises:
        UserError: the manifest is missing or not of this version.
    """
    listed = {(entry.prompt_id, entry.sample): entry.sha256 for entry in folder.entries()}
    cells = {(y, x): item for y, row in enumerate(rows.values()) for x, item in enumerate(row)}
    if not cells:
        return None
    images = {place: _open(folder, item, listed.get(_key(item))) for place, item in cells.items()}
    changed = {_key(cells[place]): image for place, image in images.items() if isinstance(image, str)}
    sizes = {image.size for image in images.values() if not isinstance(image, str)} or {(MAX_CELL, MAX_CELL)}
    cell = min(MAX_CELL, max(max(size) for size in sizes))
    sheet = Image.new("RGB", (COLUMNS * cell, len(rows) * cell), "white")
    for (y, x), image in images.items():
        if isinstance(image, str):
            image = _crossed_out(cell)
        elif image.size != (cell, cell):
            image = image.resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(image, (x * cell, y * cell))
    return Sheet(sheet, rows, next(iter(sizes)) if len(sizes) == 1 else None, changed)


def require_scored(sheet: Sheet) -> Sheet:
    """A sheet to be kept. Raises UserError where an image in it is not the one that was scored."""
    for (prompt_id, sample), why in sheet.changed.items():
        raise UserError(f"image {sample} of prompt {prompt_id}: {why}; delete it and run the sampling again")
    return sheet


def crossed_out(sheets: Iterable[Sheet]) -> str:
    """For a caption: how many images are, and why; empty where none is."""
    count = sum(len(sheet.changed) for sheet in sheets)
    return f" Crossed out: {count}, whose files are gone or {CHANGED}." if count else ""


def read_sheets(run: RunDir, items: Sequence[Item], tasks: Sequence[str]) -> dict[str, Sheet]:
    """File name -> sheet, from the run's sheet files, else from its samples; what it has neither of is absent."""
    folder, found = ImageFolder(run.samples), {}
    complete = folder.manifest_path.exists()
    for name, choose in SHEETS.items():
        rows = choose(items, tasks)
        path = run.path / name
        sheet = make_sheet(folder, rows) if complete and not path.exists() else _read(path, rows)
        if sheet is not None:
            found[name] = sheet
    return found


def show_images(sheet: Sheet) -> dict[tuple[int, int], Image.Image]:
    """(prompt id, sample) -> image of everything in a sheet."""
    cell = sheet.cell
    return {key: sheet.image.crop((x * cell, y * cell, (x + 1) * cell, (y + 1) * cell)) for key, (y, x) in sheet.places().items()}


def _read(path: Path, rows: Rows) -> Sheet | None:
    if not path.exists():
        return None
    try:
        file = decoded_image(read_bytes(path, MAX_IMAGE_BYTES))
    except CorruptSample as problem:
        raise UserError(f"{path}: cannot read the image ({problem}); delete it to have it made from the samples") from None
    size = [int(number) for number in re.findall(r"[1-9][0-9]{0,4}", str(file.info.get("image_size", "")))]
    image = file.convert("RGB")
    cell = image.width // COLUMNS
    if image.size != (COLUMNS * cell, len(rows) * cell):
        raise UserError(f"{path}: {image.size} pixels is not {len(rows)} rows of {COLUMNS} squares; ship the results again")
    return Sheet(image, rows, (size[0], size[1]) if len(size) == 2 else None)


def _open(folder: ImageFolder, item: Item, sha256: str | None) -> Image.Image | str:
    """The image that was scored, or why it is not to be had."""
    try:
        data = read_bytes(folder.image_path(item["prompt_id"], item["sample"]), MAX_IMAGE_BYTES)
        if hashlib.sha256(data).hexdigest() != sha256:
            return CHANGED
        return decoded_image(data).convert("RGB")
    except (UserError, CorruptSample) as error:
        return f"cannot read the image ({error})"


def _crossed_out(size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), "lightgray")
    draw = ImageDraw.Draw(image)
    for line in ((0, 0, size, size), (0, size, size, 0)):
        draw.line(line, fill="red", width=max(1, size // 24))
    return image
