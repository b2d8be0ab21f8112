"""GenEval's prompt sets: where to get them, whether a file is one of them, and which of them a folder of images was made with.

The official set and BAGEL's rewritten one ask for the same objects in other words, and models score differently on them: they
are two protocols. Either is known by the SHA-256 of its file.

Source: djghosh13/geneval, prompts/evaluation_metadata.jsonl; ByteDance-Seed/Bagel, eval/gen/geneval/prompts.
"""

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.geneval.metadata import PromptSpec
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path
from rf_repro.core.hashing import content_hash
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_JSONL_BYTES, shown

TIMEOUT = 30.0  # seconds without a byte from the server
BLOCK = 1 << 14  # bytes between two reports of progress
# Order of the fields in the official file, at both of its levels.
FIELDS = ("tag", "include", "exclude", "prompt", "class", "count", "color", "position")

Progress = Callable[[int, int], None]  # (bytes read, bytes in all)


@dataclass(frozen=True)
class PromptSet:
    """A published file: `size` in bytes, or the most that it may have; `sha256` of them, and `about` for the help."""

    name: str
    file: str
    url: str
    size: int
    sha256: str
    about: str


PROMPT_SETS = {
    prompt_set.name: prompt_set
    for prompt_set in (
        PromptSet(
            name="official",
            file="evaluation_metadata.jsonl",
            url="https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/evaluation_metadata.jsonl",
            size=85_209,
            sha256="5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
            about="GenEval's 553 prompts",
        ),
        PromptSet(
            name="bagel-long",
            file="evaluation_metadata_long.jsonl",
            url="https://raw.githubusercontent.com/ByteDance-Seed/Bagel/main/eval/gen/geneval/prompts/"
            "evaluation_metadata_long.jsonl",
            size=397_873,
            sha256="09472cc9c24e225417b1d5df27e688e5f2a0fcac9ec772f33d9debe4e5d49f27",
            about="the same, rewritten by GPT-4o to about 100 words each, as BAGEL and the paper's starred rows use them",
        ),
    )
}


def default_folder() -> Path:
    """Where prompt sets are kept: `geneval` in the user's cache folder for this package."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: an empty or relative value counts as unset.
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "rf_repro" / "geneval"


def identify(rows: Sequence[dict[str, Any]]) -> str:
    """`official`, `bagel-long`, or `custom-` and 8 hex digits, for prompts in order, whatever order their fields are in.

    The official file is what `json.dumps` makes of its rows, a line each, so the rows alone give back its bytes; BAGEL's is
    written in the same form (its first and last lines were compared).
    """
    text = "".join(json.dumps(_in_order(row)) + "\n" for row in rows)
    digest = hashlib.sha256(text.encode()).hexdigest()
    for prompt_set in PROMPT_SETS.values():
        if digest == prompt_set.sha256:
            return prompt_set.name
    return f"custom-{content_hash(list(rows))[:8]}"


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        rank = {name: index for index, name in enumerate(FIELDS)}
        return {key: _in_order(value[key]) for key in sorted(value, key=lambda key: rank.get(key, len(rank)))}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def load(name_or_path: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """The prompts of a published set that was fetched into `folder` (default: `default_folder()`), or of any JSON-lines file.

    Raises:
        UserError: no such file, a line that is not GenEval metadata, no line at all, or a published set's file that is not it.
    """
    known = PROMPT_SETS.get(name_or_path)
    path = (folder or default_folder()) / known.file if known else Path(name_or_path)
    remedy = f"`rf-repro data fetch geneval --set {known.name}`" if known else f"name a file, or {', '.join(PROMPT_SETS)}"
    data = read_bytes(path, MAX_JSONL_BYTES, missing=f"no such prompt set; {remedy}")
    if known:
        _verify(data, known, str(path), f"delete it, then `rf-repro data fetch geneval --set {known.name}`")
    rows = [_parse(line, f"{path}:{number}") for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: holds no prompt; one JSON object a line is needed")
    return rows


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
        PromptSpec.parse(row, where)
    except UserError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not an object of GenEval metadata ({shown(error)})") from None
    return row


def fetch(prompt_set: PromptSet, folder: Path, source: str | None = None, progress: Progress = lambda done, total: None) -> Path:
    """Puts the set's file into the folder, once its bytes are known to be the published ones; one that is there stays.

    Args:
        source: a file, a folder that holds it under its own name, or an http(s) address (default: the published address).

    Returns:
        Path of the file.

    Raises:
        UserError: it cannot be read or downloaded, or is another file; nothing is written then.
    """
    target = folder / prompt_set.file
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == prompt_set.sha256:
        return target
    source = source or prompt_set.url
    if source.startswith(("http://", "https://")):
        data = download(source, prompt_set.size, progress)
    else:
        path = Path(source) / prompt_set.file if Path(source).is_dir() else Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a file or folder on this machine, or an http(s) address") from None
        source = str(path)
    _verify(data, prompt_set, source, f"get it from {prompt_set.url}")
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return target


def download(url: str, most: int, progress: Progress) -> bytes:
    """The address's bytes; no more than one beyond `most`, which is enough to tell that they are others.

    Raises:
        UserError: it cannot be downloaded, or not to its end.
    """
    remedy = "try again, or download it elsewhere and give source=FILE"
    data = b""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            announced = response.length  # None: the server does not say
            while len(data) <= most and (block := response.read(min(BLOCK, most + 1 - len(data)))):
                data += block
                progress(len(data), min(announced or most, most))
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}; {remedy}") from None
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise UserError(f"{url}: cannot be downloaded ({getattr(error, 'reason', error)}); {remedy}") from None
    if announced is not None and len(data) < min(announced, most):
        raise UserError(f"{url}: the connection ended after {len(data)} of {announced} bytes; {remedy}")
    return data


def _verify(data: bytes, prompt_set: PromptSet, where: str, remedy: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != prompt_set.sha256:
        raise UserError(
            f"{where}: not the prompt set {prompt_set.name!r}: "
            f"its SHA-256 begins {digest[:12]}, not {prompt_set.sha256[:12]}; {remedy}"
        )
