"""GenEval 2's data: where to get them, whether a file is them, and what a row may hold.

The data are CC BY-NC 4.0 and no part of this project: `rf-repro data fetch geneval2` downloads them. A file in the same schema
is scored too, as another protocol.

Source: facebookresearch/GenEval2 (a6e82d2), geneval2_data.jsonl; arXiv 2512.16853.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.geneval.prompt_sets import Progress, PromptSet, default_folder
from evaluators.geneval.prompt_sets import fetch as fetch_set
from evaluators.geneval2.spellings import NUMBERS
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import open_plain, read_bytes
from rf_repro.core.untrusted.problems import MAX_JSONL_BYTES, MAX_RECORD_BYTES

NAME = "geneval2"
DATA = PromptSet(
    name=NAME,
    file="geneval2_data.jsonl",
    url="https://raw.githubusercontent.com/facebookresearch/GenEval2/main/geneval2_data.jsonl",
    size=1 << 20,  # the most that is read: about 425 kB are expected
    sha256="09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",
    about="GenEval 2's 800 prompts with their 6,012 questions (CC BY-NC 4.0)",
)
SKILLS = ("object", "attribute", "count", "position", "verb")
COUNTED = "How many"  # a question that begins so wants a number, any other a yes: the official script's own rule


@dataclass(frozen=True)
class Question:
    """`answer` is `Yes`, or a number in words where the text begins with `How many`."""

    text: str
    answer: str
    skill: str


@dataclass(frozen=True)
class Item:
    """One prompt. `atom_count` may be less than the number of questions: how many objects an "a" asks for is a question too, but
    adds nothing to the prompt's atomicity."""

    prompt: str
    atom_count: int
    questions: tuple[Question, ...]


def fetch(folder: Path | None = None, source: str | None = None, progress: Progress = lambda done, total: None) -> Path:
    """Puts the official file into the folder (default: the user's cache), once its SHA-256 is known to be the published one.

    Args:
        source: a file, a folder that holds it under its own name, or an http(s) address (default: the published address).

    Raises:
        UserError: it cannot be read or downloaded, or is another file; nothing is written then.
    """
    return fetch_set(DATA, folder or data_folder(), source, progress)


def data_folder() -> Path:
    """Where the file is kept: `geneval2` in the user's cache folder for this package."""
    return default_folder().with_name(NAME)


def load(name_or_path: str = NAME, folder: Path | None = None) -> list[Item]:
    """The items of the official data that were fetched into `folder` (default: `data_folder()`), or of any file in their schema.

    Raises:
        UserError: no such file, a row that is not of the schema, a prompt that occurs twice, or an official file that is not it.
    """
    path = (folder or data_folder()) / DATA.file if name_or_path == NAME else Path(name_or_path)
    remedy = f"`rf-repro data fetch {NAME}`"
    try:
        data = read_bytes(path, MAX_JSONL_BYTES)
    except UserError as error:
        hint = remedy if name_or_path == NAME else f"name a file in GenEval 2's schema, or {NAME}"
        raise UserError(f"{error}; {hint}") from None
    digest = hashlib.sha256(data).hexdigest()
    if name_or_path == NAME and digest != DATA.sha256:
        raise UserError(
            f"{path}: is not GenEval 2's file: its SHA-256 begins {digest[:12]}, not {DATA.sha256[:12]}; delete it, then {remedy}"
        )
    items = [_item(line, f"{path}:{number}") for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if not items:
        raise UserError(f"{path}: holds no prompt; one JSON object a line is needed")
    seen: set[str] = set()
    for item in items:
        if item.prompt in seen:
            raise UserError(f"{path}: the prompt {item.prompt!r} occurs twice, so an image of it could not be told apart")
        seen.add(item.prompt)
    return items


def identify(items: Sequence[Item], name_or_path: str) -> str:
    """`official` for the verified data, else `custom-` and 8 hex digits of prompts and questions."""
    return "official" if name_or_path == NAME else f"custom-{content_hash([_plain(item) for item in items])[:8]}"


def sampling_rows(name_or_path: str) -> list[dict[str, Any]] | None:
    """The prompts as metadata of an image folder, for `rf-repro sample --prompts`; None where the file is not in this schema."""
    if name_or_path != NAME and not _is_ours(Path(name_or_path)):
        return None
    return [metadata(item) for item in load(name_or_path)]


def metadata(item: Item) -> dict[str, Any]:
    """What a folder of images says of the item: no detector can judge it by that, and no question is copied."""
    return {"tag": NAME, "include": [], "prompt": item.prompt}


def _is_ours(path: Path) -> bool:
    try:
        with open_plain(path) as file:
            row = parse_json(file.readline(MAX_RECORD_BYTES))
    except ValueError:  # a UserError too: said by whoever reads it as what it should be
        return False
    return isinstance(row, dict) and "vqa_list" in row


def _plain(item: Item) -> list[Any]:
    return [item.prompt, item.atom_count, [[question.text, question.answer, question.skill] for question in item.questions]]


def _item(line: bytes, where: str) -> Item:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict) or not {"prompt", "atom_count", "vqa_list", "skills"} <= row.keys():
        raise UserError(f"{where}: must be an object with prompt, atom_count, vqa_list and skills")
    prompt, atoms, asked, skills = row["prompt"], row["atom_count"], row["vqa_list"], row["skills"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: prompt is {prompt!r}, must be a text")
    if not isinstance(atoms, int) or isinstance(atoms, bool) or atoms < 1:
        raise UserError(f"{where}: atom_count is {atoms!r}, must be an integer >= 1")
    if not isinstance(asked, list) or not asked or not isinstance(skills, list) or len(asked) != len(skills):
        raise UserError(f"{where}: vqa_list and skills must be lists of one length, at least 1")
    pairs = zip(asked, skills, strict=True)
    return Item(prompt, atoms, tuple(_question(pair, skill, f"{where}: vqa_list[{i}]") for i, (pair, skill) in enumerate(pairs)))


def _question(pair: Any, skill: Any, where: str) -> Question:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
        raise UserError(f"{where}: is {pair!r}, must be [question, answer]")
    if skill not in SKILLS:
        raise UserError(f"{where}: its skill is {skill!r}, must be one of {', '.join(SKILLS)}")
    text, answer = pair
    # The official script accepts a yes to every other question, whatever the data say.
    allowed = tuple(NUMBERS) if text.startswith(COUNTED) else ("Yes",)
    if answer not in allowed:
        raise UserError(f"{where}: the answer to {text!r} is {answer!r}, must be {' or '.join((allowed[0], allowed[-1]))}")
    return Question(text, answer, skill)
