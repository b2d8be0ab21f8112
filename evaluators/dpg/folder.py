"""A folder of images for DPG-Bench, from any model: what there is to ask about, and all that is not as it should be.

Three layouts:
    grids    ITEM.png: four images of one prompt as 2 x 2 cells, read top left, top right, bottom left, bottom right
    images   ITEM.png: one image
    samples  00000/metadata.jsonl with an `item_id`, 00000/samples/0000.png and on: what `rf-repro sample --prompts dpg` makes
A file's name is cut at its first dot, as the official script does. The script opens every file there is, scores what it can, and
pads a grid of another size with black without a word. Here each such thing is a `Problem`.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from evaluators.images import read_images, reopen
from evaluators.problems import Problem
from evaluators.results import require_same_images
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, read_json
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.untrusted.image_header import read_image

DECODED = 16  # images kept decoded: all questions about one are asked in a row
# Written beside the images, ours and the official script's.
_OURS = {"dpg.json", "dpg.items.jsonl", "dpg-problems.txt", "manifest.json", "origin.json"}

Layout = Literal["grids", "images", "samples"]
BLOCKING = ("missing", "duplicate", "damaged", "wrong size")  # a prompt has no image, or it is not clear which
Box = tuple[int, int, int, int]  # left, top, right, bottom; pixels


@dataclass(frozen=True)
class Crop:
    """One image of a prompt: where it is, the digest of the file's bytes, and of the image's own pixels."""

    path: Path
    sha256: str
    box: Box
    digest: str


@dataclass(frozen=True)
class ItemFile:
    """The images of one prompt, in order. `name` is relative to the folder; `failure` says why there are none."""

    item_id: str
    name: str
    crops: tuple[Crop, ...]
    failure: str = ""


@dataclass(frozen=True)
class Scan:
    """`files` are in order of name; in a folder without blocking problems there is one of each item.

    `resolution`: side of an image (of a cell, in grids), pixels. `digests`: of files that `rf-repro sample` made, (prompt id,
    sample) -> SHA-256.
    """

    root: Path
    layout: Layout
    files: tuple[ItemFile, ...]
    problems: tuple[Problem, ...]
    resolution: int
    digests: dict[tuple[int, int], str]

    def require_same(self, digests: Mapping[tuple[int, int], str] | None) -> None:
        """Raises UserError when an image is not the one of this SHA-256, by (prompt id, sample); None: any will do."""
        where = ImageFolder(self.root).image_path
        require_same_images(digests, {place: (where(*place), digest) for place, digest in self.digests.items()})

    @property
    def blocking(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind in BLOCKING]


@dataclass(frozen=True)
class _Found:
    """A file to read: the item, which of its images, and where."""

    item_id: str
    path: Path
    place: tuple[int, int] = (0, 0)  # (prompt id, sample), in the layout of samples


@dataclass(frozen=True)
class _Seen:
    """What a file holds: digest of its bytes, (width, height), and of each crop its box and digest."""

    sha256: str
    size: tuple[int, int]
    crops: tuple[tuple[Box, str], ...]


def scan(
    root: Path,
    items: Collection[str],
    *,
    pic_num: int = 4,
    resolution: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Reads every image of the folder once, to the digests of what will be asked about.

    Args:
        items: of the benchmark, in order.
        pic_num: images of a prompt: 4, as a grid or as samples, or 1.
        resolution: side of an image in pixels; None: that of the first that can be read.
        progress: called with (files read, files in all).

    Raises:
        UserError: no such folder, or no file of it is named as an item.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images")
    if pic_num not in (1, 4):
        raise UserError(f"pic_num={pic_num}: must be 4, images of a prompt as a grid of 2x2 or as samples, or 1")
    problems: list[Problem] = []
    sampled = any((path / "metadata.jsonl").exists() for path in root.iterdir() if path.name.isdigit())
    layout: Layout = "samples" if sampled else "grids" if pic_num == 4 else "images"
    found = _samples(root, items, pic_num, problems) if sampled else _named_files(root, items, problems)
    if not found:
        raise UserError(f"{root}: holds no image named as an item of the benchmark, for example {next(iter(items))}.png")
    cells = pic_num if layout == "grids" else 1
    resolution = resolution or _resolution(found, 2 if cells == 4 else 1)
    boxes = grid_boxes(resolution)[:cells]
    reads = read_images([own.path for own in found], lambda image: (image.size, _crops(image, boxes)), progress)
    seen = [read if isinstance(read, str) else _Seen(read[0], *read[1]) for read in reads]
    files = _gather(root, found, seen, resolution, 2 if cells == 4 else 1, pic_num if sampled else 1, problems)
    names: dict[str, str] = {}
    for file in files:
        if file.item_id in names:
            problems.append(Problem("duplicate", file.name, f"the same item as {names[file.item_id]}"))
        names.setdefault(file.item_id, file.name)
    problems += [Problem("missing", item_id, "no file of this item") for item_id in items if item_id not in names]
    digests = {own.place: read.sha256 for own, read in zip(found, seen, strict=True) if sampled and isinstance(read, _Seen)}
    return Scan(root, layout, tuple(files), tuple(problems), resolution, digests)


def grid_boxes(resolution: int) -> tuple[Box, ...]:
    """The cells of a 2 x 2 grid: top left, top right, bottom left, bottom right."""
    r = resolution
    return tuple((x, y, x + r, y + r) for y in (0, r) for x in (0, r))


def crop_of(crop: Crop) -> Image.Image:
    """The image, RGB. Raises UserError when the file has changed since it was scanned."""
    return _cut(_decoded(crop.path, crop.sha256), crop.box)


def write_grids(found: Scan, out: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Each item's four images as ITEM.png, a 2 x 2 grid that the official script takes.

    Raises:
        UserError: the folder's items do not have four images each.
    """
    r = found.resolution
    for done, file in enumerate(found.files, start=1):
        if len(file.crops) != 4:
            raise UserError(f"{found.root}: {file.name}: has {len(file.crops)} images; a grid is made of 4")
        grid = Image.new("RGB", (2 * r, 2 * r))
        for box, crop in zip(grid_boxes(r), file.crops, strict=True):
            grid.paste(crop_of(crop), box[:2])
        with atomic_path(out / f"{file.item_id}.png", durable=False) as temporary:
            grid.save(temporary, format="PNG")
        progress(done, len(found.files))


def _named_files(root: Path, items: Collection[str], problems: list[Problem]) -> list[_Found]:
    known, found = set(items), []
    for path in sorted(root.iterdir()):
        item_id = path.name.split(".")[0]
        if path.name in _OURS or path.name.startswith((".", "dpg.replies")):
            continue
        if path.is_dir():
            problems.append(Problem("foreign file", path.name, "is a folder; images are ITEM.png and the like"))
        elif item_id in known:
            found.append(_Found(item_id, path))
        else:
            problems.append(Problem("unknown item", path.name, f"{item_id!r} is no item of the benchmark"))
    return found


def _samples(root: Path, items: Collection[str], pic_num: int, problems: list[Problem]) -> list[_Found]:
    known, found = set(items), []
    for folder in sorted(path for path in root.iterdir() if path.name.isdigit() and path.is_dir()):
        where = f"{folder.name}/metadata.jsonl"
        try:
            metadata = read_json(folder / "metadata.jsonl")
            item_id = metadata["item_id"]
        except (UserError, KeyError, TypeError):
            problems.append(Problem("foreign file", where, "has no item_id; `rf-repro sample RUN --prompts dpg` writes it"))
            continue
        if item_id not in known:
            problems.append(Problem("unknown item", where, f"{item_id!r} is no item of the benchmark"))
            continue
        paths = [folder / "samples" / f"{sample:04d}.png" for sample in range(pic_num)]
        problems += [
            Problem("foreign file", f"{folder.name}/samples/{path.name}", f"{pic_num} images of a prompt are asked about")
            for path in sorted((folder / "samples").glob("*")) if path not in paths and not path.name.startswith(".")
        ]  # fmt: skip
        found += [_Found(item_id, path, (int(folder.name), sample)) for sample, path in enumerate(paths)]
    return found


def _resolution(found: Sequence[_Found], cells: int) -> int:
    for own in found:
        try:
            return max(1, read_image(own.path).width // cells)
        except UserError:
            continue  # named as damaged when all are read
    raise UserError(f"{found[0].path}: no image of its folder can be read")


def _gather(
    root: Path,
    found: Sequence[_Found],
    seen: Sequence[_Seen | str],
    resolution: int,
    cells: int,
    files_an_item: int,
    problems: list[Problem],
) -> list[ItemFile]:
    """`files_an_item` files in a row are one item's."""
    wanted = (cells * resolution, cells * resolution)
    what = f"{wanted[0]}x{wanted[1]}, a grid of 2x2 images of {resolution}" if cells == 2 else f"{wanted[0]}x{wanted[1]}"
    files: list[ItemFile] = []
    pairs: Iterator[tuple[_Found, _Seen | str]] = iter(zip(found, seen, strict=True))
    while group := list(islice(pairs, files_an_item)):
        crops: list[Crop] = []
        failure = ""
        for own, read in group:
            name = own.path.relative_to(root).as_posix()
            if isinstance(read, str):
                failure = failure or f"{name}: {read}"
                problems.append(Problem("damaged", name, read))
                continue
            if read.size != wanted:
                problems.append(Problem("wrong size", name, f"is {read.size[0]}x{read.size[1]}, not {what} px"))
            crops += [Crop(own.path, read.sha256, box, digest) for box, digest in read.crops]
        first = group[0][0].path
        name = (first if files_an_item == 1 else first.parent.parent).relative_to(root).as_posix()
        files.append(ItemFile(group[0][0].item_id, name, () if failure else tuple(crops), failure))
    return files


def _crops(image: Image.Image, boxes: Sequence[Box]) -> tuple[tuple[Box, str], ...]:
    return tuple((box, _pixels_digest(_cut(image, box))) for box in boxes)


def _cut(image: Image.Image, box: Box) -> Image.Image:
    """The box in RGB; what lies outside the image is black, as in the official script."""
    return image.crop(box).convert("RGB")


def _pixels_digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


@lru_cache(maxsize=DECODED)
def _decoded(path: Path, sha256: str) -> Any:
    image = reopen(path, sha256)
    image.load()
    return image
