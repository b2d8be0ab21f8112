"""One image of each prompt: the JSON object {prompt: path} of the official script, or a folder that `rf-repro sample` made."""

from collections.abc import Callable, Sequence
from pathlib import Path

from evaluators.geneval.folder import Scan, read_files, scan
from evaluators.geneval2.data import Item, metadata
from evaluators.problems import Problem
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json

Progress = Callable[[int, int], None]


def find_images(path: Path, items: Sequence[Item], progress: Progress = lambda done, total: None) -> Scan:
    """The images to score, each read and decoded once, and all that is not as it should be.

    Args:
        path: a folder in GenEval's layout, whose prompt i is that of item i, and of whose samples the first counts; or a JSON
            file. Relative paths in it start at its folder or, as in the official script, at the current one.
        progress: called with (images read, images in all).

    Raises:
        UserError: no such file or folder, or it is neither.
    """
    if path.is_dir():
        return scan(path, [metadata(item) for item in items], images_per_prompt=1, progress=progress)
    return _scan_json(path, items, progress)


def _scan_json(path: Path, items: Sequence[Item], progress: Progress) -> Scan:
    paths = _paths(path)
    problems: list[Problem] = []
    unknown = paths.keys() - {item.prompt for item in items}
    problems += [Problem("unknown prompt", prompt, "is none of the benchmark's") for prompt in sorted(unknown)]
    found: list[tuple[int, int, Path]] = []
    for prompt_id, item in enumerate(items):
        if item.prompt not in paths:
            problems.append(Problem("missing prompt", item.prompt, f"has no image in {path.name}"))
            continue
        image = path.parent / paths[item.prompt]
        found.append((prompt_id, 0, image if image.exists() else Path(paths[item.prompt])))
    images = read_files(found, None, problems, progress)
    prompts = {prompt_id: metadata(item) for prompt_id, item in enumerate(items)}
    return Scan(path, prompts, images, tuple(problems), 1, len(items))


def _paths(path: Path) -> dict[str, str]:
    remedy = "name a folder of images, or a JSON file of {prompt: image path}"
    if not path.exists():
        raise UserError(f"{path}: no such file; {remedy}")
    found = read_json(path, remedy)
    if not isinstance(found, dict) or not all(isinstance(image, str) for image in found.values()):
        raise UserError(f"{path}: must be one JSON object that maps each prompt to the path of its image")
    return found
