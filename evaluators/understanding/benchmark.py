"""What one benchmark is: where its data are, how a row becomes a question, and in which words each harness asks it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from PIL import Image

from evaluators.understanding.literals import listed_texts
from evaluators.understanding.record import Layout, Record, Row
from evaluators.vlm.protocol import Parts
from rf_repro.core.errors import UserError

Images = Mapping[int, Image.Image]  # by number, from 1

LETTER = "Answer with the option's letter from the given choices directly."
SINGLE = "Answer the question using a single word or phrase."
VLMEVALKIT_TOKENS = 512  # there each model has its own limit; this one cuts no direct answer


@dataclass(frozen=True)
class Template:
    """How a harness asks.

    Attributes:
        build: the message of a row and its images.
        max_new_tokens: of an answer, where the user names no other.
        layouts: of the files that hold what `build` needs.
        version: raise it when `build` changes.
    """

    build: Callable[[Row, Images], Parts]
    max_new_tokens: int
    layouts: tuple[Layout, ...] = ("columns", "tsv")
    version: int = 1


@dataclass(frozen=True)
class Benchmark:
    """
    Attributes:
        name: on the command line.
        column: of the paper's Table 2; of a variant of the data, the column that the paper's data are in.
        expected: questions; a result over fewer is incomplete.
        size_verified: whether the source of `expected` counted them.
        split: as files and the hub name it.
        hub: data sets on the hub with these columns, the first of which `--data hub` takes.
        configs: of these, which all together make up the benchmark; () where there is one.
        tsv: VLMEvalKit's files, without the suffix.
        licence: as the data's own page states it; check it before use.
        metrics: module of `evaluators.understanding.metrics`.
        row: a record as a question; None: it is no part of the benchmark. Raises UserError where a column is missing.
        protocols: protocol id -> how it asks.
        inferred: why the paper's number is taken to be `PAPER_METRIC` of the metrics module.
    """

    name: str
    title: str
    column: str
    expected: int
    size_verified: bool
    split: str
    hub: tuple[str, ...]
    configs: tuple[str, ...]
    tsv: tuple[str, ...]
    licence: str
    metrics: str
    row: Callable[[Record], Row | None]
    protocols: Mapping[str, Template]
    inferred: str


def stored_list(value: Any, where: str) -> list[str]:
    """A list of texts, also where it is stored as the text that Python prints of it, as MMMU's options are.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, str):
        value = listed_texts(value)
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: is not a list of texts; is it this benchmark's file?")
    return [str(item) for item in value]


def answers(value: Any) -> Any:
    """A text, or a list of texts where a text that looks like one holds several right answers."""
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    text = str(value)
    if text.startswith("[") and text.endswith("]"):
        try:
            return stored_list(text, "answer")
        except UserError:
            return text
    return text


def tsv_options(record: Record) -> list[str]:
    """The columns A, B, ... up to the first that is empty."""
    options: list[str] = []
    for letter in ascii_uppercase:
        if record.values.get(letter) is None:
            break
        options.append(str(record.values[letter]))
    return options


def lettered(options: Sequence[str]) -> str:
    """`A. first`, `B. second`, ..., a line each."""
    pairs = zip(ascii_uppercase, options, strict=False)  # there are more letters than options
    return "\n".join(f"{letter}. {option}" for letter, option in pairs)


def pictures_first(images: Images, text: str) -> Parts:
    return (*(images[number] for number in sorted(images)), text)


def single_picture(text: Callable[[Row], str]) -> Callable[[Row, Images], Parts]:
    """A message of one image and a text. A row without an image fails."""

    def build(row: Row, images: Images) -> Parts:
        if not images:
            raise ValueError(f"{row.key}: has no image")
        return pictures_first(images, text(row))

    return build


def mcq_text(row: Row) -> str:
    """VLMEvalKit's question with options (`ImageMCQDataset.build_prompt`), its trailing space included."""
    hint, options = row.fields.get("hint"), row.fields.get("options") or []
    text = f"Hint: {hint}\n" if hint else ""
    text += f"Question: {row.question}\n"
    if options:
        text += f"Options:\n{lettered(options)}\nPlease select the correct answer from the options above. \n"
    return text


def as_text(value: Any) -> str:
    """JSON, the same for the same value, for digests and messages."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
