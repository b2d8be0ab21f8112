"""GenEval's verdict on one image.

Source: GenEval's evaluation rules as its official script applies them (djghosh13/geneval, af4902f), checked against
that script's verdicts in `tests/evaluators/test_geneval_vectors.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from PIL.Image import Image

from evaluators.detection import ColorClassifier, Detections
from evaluators.geneval.crops import object_crops
from evaluators.geneval.metadata import COLORS, Clause, PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.relations import relations
from evaluators.geneval.selection import select

Failure = Literal["missing_object", "wrong_color", "wrong_position", "extra_object"]
ColorOf = Callable[[str, Detections], Sequence[str]]  # (class name, N objects of it) -> N colours
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class ImageVerdict:
    """Whether an image shows what its prompt asks for, and what was seen.

    Args:
        correct: every clause holds.
        reason: one line for each clause that does not, in the official words; empty when correct.
        failure: kind of the first of them; None when correct.
        details: class -> [[x1, y1, x2, y2, score], ...] of every detection that counted, asked for or not, best first.
        colors: (class, colour asked for, colour seen) of every object whose colour was asked.
    """

    correct: bool
    reason: str
    failure: Failure | None
    details: dict[str, list[list[float]]]
    colors: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class _Problem:
    failure: Failure
    text: str


def crop_colors(image: Image, classifier: ColorClassifier) -> ColorOf:
    """Colours as `classifier` sees them in crops of the image, which may have any mode and EXIF orientation."""

    def color_of(name: str, objects: Detections) -> list[str]:
        return classifier.classify(object_crops(image, objects), [name] * len(objects))

    return color_of


def score_image(
    metadata: dict[str, Any], detections: dict[str, Detections], color_of: ColorOf, options: GenEvalOptions
) -> ImageVerdict:
    """Judges one image against its prompt.

    Args:
        metadata: the prompt's object of `evaluation_metadata.jsonl`.
        detections: class name -> all its detections in the upright image.
        color_of: asked for the colours of the objects that a clause with a colour is about, and no others.

    Raises:
        UserError: the metadata asks for something that no image can satisfy.
        ValueError: the detector's masks do not fit the image, or an answer of `color_of` is no colour of GenEval's.
    """
    spec = PromptSpec.parse(metadata, "metadata")
    threshold = options.score_threshold(spec.tag)
    kept = {name: select(found, threshold, options) for name, found in detections.items()}
    kept = {name: objects for name, objects in kept.items() if len(objects)}

    problems: list[_Problem] = []
    colors: list[tuple[str, str, str]] = []
    groups: list[Detections | None] = []  # the objects of each include clause that holds, None for one that does not
    for clause in spec.include:
        objects = kept.get(clause.class_name, NOTHING)
        objects = objects.take(range(min(clause.count, len(objects))))  # colour and position are asked of the best ones
        problem = _check_include(clause, objects, groups, color_of, colors, options)
        groups.append(None if problem else objects)
        problems += [problem] if problem else []
    for clause in spec.exclude:
        found = len(kept.get(clause.class_name, NOTHING))
        if found >= clause.count:
            problems.append(_Problem("extra_object", f"expected {clause.class_name}<{clause.count}, found {found}"))
    return ImageVerdict(
        correct=not problems,
        reason="\n".join(problem.text for problem in problems),
        failure=problems[0].failure if problems else None,
        details={
            name: [[*box, score] for box, score in zip(objects.boxes.tolist(), objects.scores.tolist(), strict=True)]
            for name, objects in kept.items()
        },
        colors=tuple(colors),
    )


def _check_include(
    clause: Clause,
    objects: Detections,
    groups: Sequence[Detections | None],
    color_of: ColorOf,
    seen_colors: list[tuple[str, str, str]],
    options: GenEvalOptions,
) -> _Problem | None:
    """The first of count, colour and position that fails for the best `count` objects; None when all hold.

    Adds the colours it asks for to `seen_colors`.
    """
    name, count = clause.class_name, clause.count
    if len(objects) < count:
        return _Problem("missing_object", f"expected {name}>={count}, found {len(objects)}")
    if clause.color is not None:
        colors = _known(list(color_of(name, objects)), len(objects), name)
        seen_colors += [(name, clause.color, color) for color in colors]
        right = colors.count(clause.color)
        if right < count:
            seen = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
            return _Problem("wrong_color", f"expected {clause.color} {name}>={count}, found {right} {clause.color}; and {seen}")
    if clause.position is not None:
        relation, target = clause.position
        targets = groups[target]
        if targets is None:
            return _Problem("wrong_position", f"no target for {name} to be {relation}")
        for box, target_box in product(objects.boxes, targets.boxes):
            found = relations(box, target_box, options.position_threshold)
            if relation not in found:
                return _Problem("wrong_position", f"expected {name} {relation} target, found {' and '.join(found)} target")
    return None


def _known(colors: list[str], num: int, class_name: str) -> list[str]:
    if len(colors) != num or not set(colors) <= set(COLORS):
        raise ValueError(f"colours {colors} of {num} objects ({class_name}): one of {', '.join(COLORS)} each is needed")
    return colors
