"""GenEval's prompt metadata as types, checked before any image is looked at."""

from dataclasses import dataclass
from typing import Any

from evaluators.geneval.relations import RELATIONS
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.problems import shown_value

# The official order, which also orders the colours in a verdict's reason.
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class Clause:
    """`count` objects of a class: at least so many when included, fewer when excluded.

    `color`: the colour of all `count`. `position`: their relation to the objects of an earlier include clause, as
    (relation, index of that clause).
    """

    class_name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class PromptSpec:
    """What one prompt asks for: all of `include` and none of `exclude`. `tag` names its task."""

    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]

    @classmethod
    def parse(cls, metadata: dict[str, Any], where: str) -> "PromptSpec":
        """Reads one object of the official `evaluation_metadata.jsonl`; further fields are ignored.

        Raises:
            UserError: a field is missing or cannot be satisfied by any image, which would score 0 without a word.
        """
        for name in ("tag", "prompt"):
            if not isinstance(metadata.get(name), str):
                raise UserError(f"{where}: {name} is {metadata.get(name)!r}; GenEval metadata needs a text there")
        for name in ("include", "exclude"):
            clauses = metadata.get(name, [])
            if not isinstance(clauses, list | tuple) or not all(isinstance(item, dict) for item in clauses):
                raise UserError(f"{where}: {name} is {shown_value(clauses)}, must be a list of objects with class and count")
        return cls(
            metadata["tag"],
            metadata["prompt"],
            tuple(_clause(item, i, f"{where}: include[{i}]") for i, item in enumerate(metadata.get("include", []))),
            tuple(_clause(item, i, f"{where}: exclude[{i}]") for i, item in enumerate(metadata.get("exclude", []))),
        )


def _clause(item: dict[str, Any], index: int, where: str) -> Clause:
    class_name, count = item.get("class"), item.get("count")
    if not isinstance(class_name, str):
        raise UserError(f"{where}: class is {class_name!r}, must be a class name")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"{where}: count is {count!r}, must be an integer >= 1")
    if "color" in item and item["color"] not in tuple(COLORS):
        raise UserError(f"{where}: color is {item['color']!r}, must be one of {', '.join(COLORS)}")
    position = tuple(item["position"]) if isinstance(item.get("position"), list | tuple) else item.get("position")
    if "position" in item and position not in [(relation, target) for relation in RELATIONS for target in range(index)]:
        raise UserError(
            f"{where}: position is {item['position']!r}, must be [relation, index of an earlier clause] with a relation of "
            f"{', '.join(RELATIONS)}"
        )
    return Clause(class_name, count, item.get("color"), position)
