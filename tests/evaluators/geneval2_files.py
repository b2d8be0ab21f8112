"""Files in GenEval 2's own schema, images whose colour says which prompt they are of, and judges whose scores are known."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from evaluators.vlm.protocol import Parts, images_of, text_of
from rf_repro.core.hashing import derive_seed
from tests.evaluators.scripted import Scripted

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
# The example of the data's own README.
BICYCLES: dict[str, Any] = {
    "prompt": "four white bicycles in front of three plastic cows",
    "atom_count": 7,
    "vqa_list": [
        ["How many bicycles are in the image?", "four"], ["Are the bicycles white?", "Yes"],
        ["Are there any bicycles in the image?", "Yes"], ["Are the bicycles in front of the cows?", "Yes"],
        ["How many cows are in the image?", "three"], ["Are the cows plastic?", "Yes"],
        ["Are there any cows in the image?", "Yes"],
    ],
    "skills": ["count", "attribute", "object", "position", "count", "attribute", "object"],
}  # fmt: skip


def make_rows(num: int, seed: int = 0) -> list[dict[str, Any]]:
    """The README's example, then drawn prompts of atomicities 3 to 10 in turn; an "a" is asked about but is no atom."""
    rng = random.Random(seed)
    rows = [BICYCLES]
    while len(rows) < num:
        things = rng.sample(["pig", "car", "koala", "violin", "clock", "zebra"], rng.randint(1, 4))
        asked: list[tuple[list[str], str]] = []
        for place, thing in enumerate(things):
            number = rng.choice(NUMBERS)
            asked.append(([f"How many {thing}s are in the image?", number], "count"))
            if rng.random() < 0.5:
                asked.append(([f"Are the {thing}s striped?", "Yes"], "attribute"))
            asked.append(([f"Are there any {thing}s in the image?", "Yes"], "object"))
            if place:
                skill = rng.choice(("position", "verb"))
                relation = "chasing" if skill == "verb" else "to the left of"
                asked.append(([f"Are the {things[place - 1]}s {relation} the {thing}s?", "Yes"], skill))
        rows.append(
            {
                "prompt": f"prompt {len(rows)} of {' and '.join(things)}",
                "atom_count": 3 + (len(rows) - 1) % 8,
                "vqa_list": [pair for pair, _ in asked],
                "skills": [skill for _, skill in asked],
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_images(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """An image of each prompt, red = its index, and the JSON file that names them, relative to itself; returns that file."""
    (folder / "drawn").mkdir(parents=True)
    paths = {}
    for index, row in enumerate(rows):
        Image.new("RGB", (24, 16), (index, 50, 90)).save(folder / "drawn" / f"{index}.png")
        paths[row["prompt"]] = f"drawn/{index}.png"
    file = folder / "images.json"
    file.write_text(json.dumps(paths))
    return file


def shown(parts: Parts) -> int:
    """The index of the prompt whose image is shown."""
    (image,) = images_of(parts)
    return int(image.getpixel((0, 0))[0])  # type: ignore[index]


def perfect(rows: Sequence[dict[str, Any]], name: str = "perfect") -> Scripted:
    """Answers every question about the image that it is shown as the data have it."""

    def reply(parts: Parts) -> str:
        question, _, rest = text_of(parts).partition("?")
        assert rest == " Answer in one word."
        return dict(rows[shown(parts)]["vqa_list"])[f"{question}?"]

    return Scripted(reply, name)


class Drawn:
    """Probabilities that follow from image, question and spellings, each in (0, 1): no two questions have the same."""

    revision, settings = "drawn", {"seed": 0}

    def __init__(self) -> None:
        self.asked: list[Parts] = []

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        raise AssertionError("only probabilities are asked")

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        self.asked += batch
        return [
            [self.probability(shown(parts), text_of(parts), group) for group in groups]
            for parts, groups in zip(batch, choices, strict=True)
        ]

    @staticmethod
    def probability(image: int, text: str, group: Sequence[str]) -> float:
        return (1 + derive_seed("drawn", image, text, *group) % 9998) / 10_000
