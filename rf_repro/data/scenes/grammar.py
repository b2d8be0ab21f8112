"""The prompts of the scenes world: GenEval's six tasks, caption templates and metadata fields over shapes and colours.

Objects are numbered as in the metadata's `include` list. In a position prompt GenEval lists the target first, so object 1
stands in the relation to object 0: "a photo of a circle left of a square" has objects (square, circle).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "above", "right of", "below")  # the mirror of relation r is (r + 2) % 4
NUMBERS = {2: "two", 3: "three", 4: "four"}


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


@dataclass(frozen=True)
class Prompt:
    """What a caption asks for; nothing else may be in the scene.

    Attributes:
        tag: GenEval's task name.
        shapes: each object's index into `config.shapes`.
        colors: each object's index into `config.colors`, -1 where the caption leaves it open.
        relation: index into RELATIONS of object 1 relative to object 0; -1 for none.
    """

    tag: str
    shapes: tuple[int, ...]
    colors: tuple[int, ...]
    relation: int = -1

    def caption(self, config: ScenesConfig) -> str:
        names = [config.shapes[shape] for shape in self.shapes]
        phrases = [
            article(name if color < 0 else f"{config.colors[color]} {name}")
            for name, color in zip(names, self.colors, strict=True)
        ]
        if self.tag == "counting":
            return f"a photo of {NUMBERS[len(names)]} {plural(names[0])}"
        if self.tag == "position":
            return f"a photo of {phrases[1]} {RELATIONS[self.relation]} {phrases[0]}"
        return "a photo of " + " and ".join(phrases)

    def metadata(self, config: ScenesConfig) -> dict[str, Any]:
        """GenEval's official fields: tag, include, exclude (counting only), prompt."""
        names = [config.shapes[shape] for shape in self.shapes]
        fields: dict[str, Any] = {"tag": self.tag}
        if self.tag == "counting":
            fields["include"] = [{"class": names[0], "count": len(names)}]
            fields["exclude"] = [{"class": names[0], "count": len(names) + 1}]
        else:
            fields["include"] = [{"class": name, "count": 1} for name in names]
            for entry, color in zip(fields["include"], self.colors, strict=True):
                if color >= 0:
                    entry["color"] = config.colors[color]
        if self.tag == "position":
            fields["include"][1]["position"] = [RELATIONS[self.relation], 0]
        return {**fields, "prompt": self.caption(config)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], config: ScenesConfig) -> "Prompt":
        """The inverse of `metadata`; further keys are ignored.

        Raises:
            UserError: it asks for a shape, colour, relation or number of objects that this world does not have.
        """
        where = f"prompt {metadata.get('prompt')!r}"
        shapes: list[int] = []
        colors: list[int] = []
        relation = -1
        for entry in metadata["include"]:
            shapes += [_index(entry["class"], config.shapes, "shape", where)] * entry["count"]
            color = _index(entry["color"], config.colors, "color", where) if "color" in entry else -1
            colors += [color] * entry["count"]
            if "position" in entry:
                relation = _index(entry["position"][0], RELATIONS, "relation", where)
        if len(shapes) > config.max_objects:
            raise UserError(f"{where}: {len(shapes)} objects; data.scenes.max_objects allows {config.max_objects}")
        return cls(metadata["tag"], tuple(shapes), tuple(colors), relation)


def _index(name: str, names: Sequence[str], kind: str, where: str) -> int:
    if name not in names:
        raise UserError(f"{where}: unknown {kind} {name!r}; this world has {', '.join(names)}")
    return names.index(name)


def all_prompts(config: ScenesConfig) -> dict[str, list[Prompt]]:
    """Every prompt of the world by task, in a fixed order."""
    shapes, colors = range(len(config.shapes)), range(len(config.colors))
    return {
        "single_object": [Prompt("single_object", (a,), (-1,)) for a in shapes],
        "two_object": [Prompt("two_object", pair, (-1, -1)) for pair in permutations(shapes, 2)],
        "counting": [Prompt("counting", (a,) * n, (-1,) * n) for a in shapes for n in range(2, config.max_objects + 1)],
        "colors": [Prompt("colors", (a,), (c,)) for a, c in product(shapes, colors)],
        "position": [Prompt("position", pair, (-1, -1), r) for pair in permutations(shapes, 2) for r in range(4)],
        "color_attr": [
            Prompt("color_attr", pair, paint) for pair in permutations(shapes, 2) for paint in permutations(colors, 2)
        ],
    }


def dense_caption(config: ScenesConfig, objects: Sequence[tuple[int, int]]) -> str:
    """Every object's colour and shape, as given: "a photo of red circle and blue square"."""
    return "a photo of " + " and ".join(f"{config.colors[color]} {config.shapes[shape]}" for shape, color in objects)


def vocabulary(config: ScenesConfig) -> list[str]:
    """Every word that captions may hold, without repetition, in a fixed order."""
    words = ["a", "an", "photo", "of", "and", "left", "right", "above", "below"]
    words += [NUMBERS[n] for n in range(2, config.max_objects + 1)]
    words += [*config.shapes, *map(plural, config.shapes), *config.colors]
    return list(dict.fromkeys(words))
