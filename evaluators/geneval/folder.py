"""A folder of images in GenEval's layout, from any model: what there is to score, and all that is not as it should be.

The official script scores whatever it happens to find: folders whose names are digits, files that begin like `0000.png`. What
is missing, damaged or named otherwise it passes over without a word. Here every such thing is a `Problem`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from evaluators.geneval.crops import upright_rgb
from evaluators.geneval.metadata import PromptSpec
from evaluators.images import read_images, reopen, upright_size
from evaluators.problems import Problem
from evaluators.results import require_same_images
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_object
from rf_repro.core.untrusted.problems import shown

NUM_PROMPTS, IMAGES_PER_PROMPT = 553, 4  # the benchmark's
# Written beside the prompts' folders.
_OURS = {"manifest.json", "origin.json", "geneval.json", "geneval.items.jsonl", "results.jsonl", "geneval.html",
         "geneval-problems.txt", "geneval-cache"}  # fmt: skip
_PROMPT_FILES = {"metadata.jsonl", "samples", "grid.png"}  # what the official generation script leaves in a prompt's folder


@dataclass(frozen=True)
class ImageFile:
    """One image that can be scored: digest of the file's bytes, and (width, height) in pixels once turned upright."""

    prompt_id: int
    sample: int
    path: Path
    sha256: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Scan:
    """`prompts` holds the metadata of every prompt that is expected and known; `images` at most `images_per_prompt` of each.

    `expected` counts the images that a complete folder would hold.
    """

    root: Path
    prompts: dict[int, dict[str, Any]]
    images: tuple[ImageFile, ...]
    problems: tuple[Problem, ...]
    images_per_prompt: int
    expected: int

    @property
    def by_place(self) -> dict[tuple[int, int], ImageFile]:
        """(prompt id, sample) -> image."""
        return {(image.prompt_id, image.sample): image for image in self.images}

    @property
    def damaged(self) -> int:
        """Images that are there and cannot be read."""
        return sum(problem.kind == "damaged image" for problem in self.problems)

    def require_same(self, digests: Mapping[tuple[int, int], str] | None) -> None:
        """Raises UserError when an image is not the one of this SHA-256, by (prompt id, sample); None: any will do."""
        require_same_images(digests, {place: (image.path, image.sha256) for place, image in self.by_place.items()})


def scan(
    root: Path,
    reference: Sequence[dict[str, Any]] | None = None,
    *,
    num_prompts: int = NUM_PROMPTS,
    images_per_prompt: int = IMAGES_PER_PROMPT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Reads every file of the folder once, to its hash.

    Args:
        reference: the prompt set that the folder should hold, in order; its length replaces `num_prompts`. Without it the
            folder's own metadata is taken at its word.
        progress: called with (images read, images in all).

    Raises:
        UserError: no such folder, or none of its folders is a prompt's.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images")
    problems: list[Problem] = []
    folders = _prompt_folders(root, problems)
    if not folders:
        raise UserError(
            f"{root}: holds no prompt's folder; GenEval's layout is 00000/metadata.jsonl, 00000/samples/0000.png and on"
        )
    count = num_prompts if reference is None else len(reference)
    prompts = {} if reference is None else dict(enumerate(reference))
    found: list[tuple[int, int, Path]] = []
    for prompt_id, folder in folders.items():
        if prompt_id >= count:
            problems.append(Problem("unknown prompt", folder.name, f"there are {count} prompts, 0 to {count - 1}"))
            continue
        own = _metadata(folder, problems)
        if reference is None and own is not None:
            prompts[prompt_id] = own
        elif own is not None and own != reference[prompt_id]:  # type: ignore[index]
            message = f"is not that of prompt {prompt_id} in the prompt set, {reference[prompt_id].get('prompt')!r}"  # type: ignore[index]
            problems.append(Problem("wrong metadata", f"{folder.name}/metadata.jsonl", message))
        if own is not None and own == prompts.get(prompt_id):
            found += [(prompt_id, sample, path) for sample, path in _samples(folder, images_per_prompt, problems)]
    for prompt_id in range(count):
        if prompt_id not in folders:
            about = f" ({prompts[prompt_id]['prompt']!r})" if prompt_id in prompts else ""
            problems.append(Problem("missing prompt", f"{prompt_id:05d}", f"no such folder{about}"))

    images = read_files(found, root, problems, progress)
    return Scan(root, prompts, images, tuple(problems), images_per_prompt, count * images_per_prompt)


def read_files(
    found: Sequence[tuple[int, int, Path]],
    root: Path | None,
    problems: list[Problem],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[ImageFile, ...]:
    """Reads each file of (prompt id, sample, path); damaged ones go to the problems, by their path below `root`."""
    images: list[ImageFile] = []
    seen = read_images([path for _, _, path in found], upright_size, progress)
    for (prompt_id, sample, path), read in zip(found, seen, strict=True):
        if isinstance(read, str):
            problems.append(Problem("damaged image", str(path) if root is None else path.relative_to(root).as_posix(), read))
        else:
            images.append(ImageFile(prompt_id, sample, path, *read))
    return tuple(images)


def decode(image: ImageFile) -> Image.Image:
    """The image, upright and in RGB. Raises UserError when the file has changed since it was scanned."""
    return upright_rgb(reopen(image.path, image.sha256))


def _prompt_folders(root: Path, problems: list[Problem]) -> dict[int, Path]:
    """Prompt id -> folder, in order of id."""
    folders: dict[int, Path] = {}
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name.isascii() and path.name.isdigit():
            if int(path.name) in folders:
                problems.append(Problem("wrong folder", path.name, f"the same prompt as {folders[int(path.name)].name}"))
            else:
                folders[int(path.name)] = path
        elif path.name not in _OURS and not path.name.startswith("."):
            kind, layout = ("wrong folder", "prompts' folders are named 00000, 00001 and on") if path.is_dir() else (
                "foreign file", "images belong in a prompt's folder, as 00000/samples/0000.png")  # fmt: skip
            problems.append(Problem(kind, path.name, layout))
    return dict(sorted(folders.items()))


def _metadata(folder: Path, problems: list[Problem]) -> dict[str, Any] | None:
    path = folder / "metadata.jsonl"
    where = f"{folder.name}/metadata.jsonl"
    try:
        if not path.exists():
            problems.append(Problem("missing metadata", where, "no such file; without it nobody knows what to look for"))
            return None
        value = read_object(path, remedy="write the prompt's metadata again")
        PromptSpec.parse(value, where)
    except UserError as error:
        problems.append(Problem("wrong metadata", where, str(error).removeprefix(f"{where}: ").removeprefix(f"{path}: ")))
    except (AttributeError, TypeError, ValueError) as error:
        problems.append(Problem("wrong metadata", where, f"not GenEval's ({shown(error)})"))
    else:
        return value
    return None


def _samples(folder: Path, wanted: int, problems: list[Problem]) -> Iterator[tuple[int, Path]]:
    """(sample, path) of the first `wanted` samples."""
    for path in sorted(folder.iterdir()):
        if path.name not in _PROMPT_FILES:
            problems.append(Problem("foreign file", f"{folder.name}/{path.name}", "not a part of the layout; not scored"))
    samples: dict[int, Path] = {}
    names = sorted((folder / "samples").iterdir()) if (folder / "samples").is_dir() else []
    for path in names:
        where = f"{folder.name}/samples/{path.name}"
        if not re.fullmatch(r"[0-9]+\.png", path.name):
            counted = "; the official script would score it" if re.match(r"\d+\.png", path.name) else ""
            problems.append(Problem("foreign file", where, f"images are named 0000.png and on; not scored{counted}"))
        elif int(path.stem) in samples:
            problems.append(Problem("foreign file", where, f"the same sample as {samples[int(path.stem)].name}; not scored"))
        else:
            samples[int(path.stem)] = path
    chosen = sorted(samples.items())[:wanted]
    for _, path in sorted(samples.items())[wanted:]:
        problems.append(Problem("extra image", f"{folder.name}/samples/{path.name}", f"{wanted} images a prompt; not scored"))
    if len(chosen) < wanted:
        problems.append(Problem("missing image", f"{folder.name}/samples", f"{len(chosen)} of {wanted} images"))
    yield from chosen
