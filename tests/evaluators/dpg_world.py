"""DPG-Bench's files, built on the spot: a CSV in its columns and grids of plain colours."""

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

COLUMNS = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
)  # fmt: skip
CATEGORIES = ("entity - whole", "entity - part", "attribute - color", "relation - spatial", "global -", "other - count")
SIDE = 6  # pixels of a cell
# Of the cells of a grid, in the order they are read.
COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))

Row = tuple[str, int, str, str, str]  # item, number, dependency, category, question


def csv_text(rows: Sequence[Row]) -> str:
    """A file in the columns of dpg_bench.csv; prompts have commas and quotes, as the real ones have."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item_id, number, dependency, category, question in rows:
        broad, _, detailed = category.partition(" - ")
        prompt = f'A "dense", long prompt\nof {item_id}.'
        writer.writerow((item_id, prompt, "", number, dependency, broad, detailed, f"{category} (thing, {number})", question))
    return buffer.getvalue()


def simple_rows(items: Sequence[str] = ("partiprompts97", "256", "drawtext1")) -> list[Row]:
    """Three questions an item: a root, its child, and the child's child."""
    return [
        (item_id, number, str(number - 1), CATEGORIES[number - 1], f"Is it {number} in {item_id}?")
        for item_id in items
        for number in (1, 2, 3)
    ]


def random_rows(seed: int, *, tidy: bool = False) -> list[Row]:
    """Random trees of questions, some with several parents.

    Args:
        tidy: parents come before their children, numbers are unique, an item's rows are together, and none is missing.
    """
    rng = random.Random(seed)
    rows: list[Row] = []
    for index in range(rng.randint(2, 6)):
        count = rng.randint(1, 8)
        for number in range(1, count + 1):
            # Untidy: also later ones and itself.
            pool = range(1, number) if tidy else range(1, count + 1)
            parents = rng.sample(pool, min(len(pool), rng.choice((0, 1, 1, 2, 3))))
            dependency = rng.choice((",", ", ")).join(map(str, parents)) if parents else "0"
            # One text may be asked twice.
            rows.append((f"item{index}", number, dependency, rng.choice(CATEGORIES), f"Is it {rng.randint(1, 30)} in {number}?"))
    if not tidy:
        for _ in range(rng.choice((0, 0, 1, 2))):
            if len(rows) > 2:
                rows.pop(rng.randrange(len(rows)))  # some child's parent, maybe
        if rng.random() < 0.3:
            rows.append(rng.choice(rows))  # apart from its item, and one number twice
        if rng.random() < 0.3:
            place = rng.randrange(1, len(rows) + 1)
            item_id, number, _, _, question = rows[place - 1]
            rows.insert(place, (item_id, number, "0", rng.choice(CATEGORIES), f"{question} Really?"))
    return rows


def write_grid(path: Path, colors: Sequence[tuple[int, int, int]] = COLORS, side: int = SIDE) -> Path:
    grid = Image.new("RGB", (2 * side, 2 * side))
    for place, color in zip(((0, 0), (side, 0), (0, side), (side, side)), colors, strict=True):
        grid.paste(color, (*place, place[0] + side, place[1] + side))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path)
    return path


def write_grids(folder: Path, items: Sequence[str]) -> Path:
    """A grid an item; each item's colours are a little different, so that no two images are equal."""
    for index, item_id in enumerate(items):
        write_grid(folder / f"{item_id}.png", [(r, g, b + index) for r, g, b in COLORS])
    return folder
