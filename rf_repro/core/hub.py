"""Models of others, from a folder or the Hugging Face hub: which revision, none of their code, and no weight left to chance.

A hub's model becomes a folder first, of JSON, texts and safetensors alone, and is loaded from there: neither code nor a pickle is
fetched, and no library looks for one elsewhere, as `transformers` does in a repository's pull requests.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json
from rf_repro.core.hashing import content_hash, file_sha256
from rf_repro.core.install import extra_hint

HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?")
WEIGHTS = ("*.json", "*.safetensors")
MODEL = (*WEIGHTS, "*.txt", "*.model", "*.jinja")  # with tokenizer and processor
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ADAPTER = "adapter_config.json"
DOWNLOAD = "download it again"  # the remedy for a damaged file of a model


def split_revision(source: str) -> tuple[str, str | None]:
    """(hub id, revision) of `organisation/name@revision`, a commit, tag or branch; anything else is whole, with None."""
    found = HUB_ID.fullmatch(source)
    return (found[1], found[2]) if found and not Path(source).expanduser().exists() else (source, None)


def find_model(source: str, place: str, patterns: Sequence[str] = WEIGHTS) -> Path:
    """The folder itself, or the hub's snapshot of a hub id, downloaded where it is not in the cache.

    Args:
        source: a folder, or `organisation/name`, of which `@revision` pins a commit, tag or branch.
        place: begins the error, `model='...'`.
        patterns: of the files that are downloaded.

    Raises:
        UserError: neither exists; says how to bring a model to a machine without the hub.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(source):
        raise UserError(f"{place}: must be a folder that exists, or a hub id organisation/name, or organisation/name@revision")
    name, revision = split_revision(source)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{place}: a hub id needs huggingface_hub ({error}); install it with: {extra_hint('hub')}, or give a folder"
        ) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of the network, of names, of rights, of files: many kinds, one remedy
        pinned = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{place}: no such folder, and the hub does not give it ({first_line(error)}); where there is a network: "
            f"hf download {name}{pinned} --include {' '.join(map(repr, patterns))} --local-dir FOLDER, then give FOLDER"
        ) from None


def model_revision(source: str, folder: Path) -> str:
    """What tells a model's weights, tokenizer and templates apart: the hub's commit, or a folder's content."""
    if Path(source).expanduser().is_dir():
        return f"files {content_hash({path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()})}"
    return f"{split_revision(source)[0]}@{folder.name}"  # snapshots lie under their commit


def cached_commit(source: str) -> str | None:
    """The commit of a hub id's snapshot in the hub's cache; None for a folder, or where there is none."""
    if not HUB_ID.fullmatch(source) or Path(source).expanduser().exists():
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    name, revision = split_revision(source)
    for file in ("config.json", "vae/config.json", "tokenizer.json"):
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found.removesuffix(file)).name
    return None


def refuse_strangers(folder: Path, place: str) -> None:
    """Raises UserError where a model's files lead elsewhere: to another model that an adapter is for, or to code of the hub."""
    if (folder / ADAPTER).exists():
        raise UserError(f"{place}: is an adapter of another model; merge it into that and give the folder of both")
    config = folder / "config.json"
    if config.is_file() and (kernel := _kernel(read_json(config, DOWNLOAD))):
        raise UserError(f"{place}: its config.json asks for {kernel!r}, code of the hub, which is never run; remove the field")


def _kernel(value: Any) -> str | None:
    """An implementation of attention or the like that is named by a hub id, anywhere in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        texts = item.values() if isinstance(item, dict) else [item]
        if str(name).endswith(("_implementation", "_implementation_internal")):
            for text in texts:
                if isinstance(text, str) and "/" in text:
                    return text
        if found := _kernel(item):
            return found
    return None


def require_safetensors(folder: Path, place: str) -> None:
    """Raises UserError where a folder has none."""
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for path in folder.glob("*") if path.suffix in PICKLED]
        reason = f"; {some(pickles)} are pickles, which can run code and are never opened: convert them" if pickles else ""
        raise UserError(f"{place}: has no .safetensors{reason or '; give a folder or hub id with them'}")


@contextmanager
def loading(place: str, remedy: str) -> Iterator[None]:
    """What libraries raise in the block, on files that are not as they must be, as one line. ImportError passes.

    Raises:
        UserError: place, reason and remedy.
    """
    try:
        yield
    except (ImportError, UserError):
        raise
    except Exception as error:  # readers of many formats raise what they like
        if "trust_remote_code" in str(error):
            raise UserError(f"{place}: needs code from the model's own folder, which is never run; {remedy}") from None
        raise UserError(f"{place}: cannot be loaded ({first_line(error)}); {remedy}") from None


def require_all_weights(info: Mapping[str, Any], place: str, unused: Callable[[str], bool] = lambda name: False) -> None:
    """That a checkpoint and the model of its config are of the same tensors.

    Args:
        info: `output_loading_info` of `transformers` or `diffusers`, which leave random what a checkpoint lacks.
        unused: names that may be lacking, or left over, for no result depends on them.

    Raises:
        UserError: they are not; the line names some.
    """
    problems = {
        "missing": sorted(name for name in info["missing_keys"] if not unused(name)),
        "left over": sorted(name for name in info["unexpected_keys"] if not unused(name)),
        "of another shape": sorted(name for name, *_ in info["mismatched_keys"]),
    }
    said = "; ".join(f"{what}: {some(names)}" for what, names in problems.items() if names)
    if said or info.get("error_msgs"):
        said = said or first_line(Exception(info["error_msgs"][0]))
        raise UserError(f"{place}: weights do not fit the model its config.json describes ({said}); take it again")


def some(names: Collection[str], most: int = 6) -> str:
    """The first few in order, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(sorted(names)[:most]) or "none") + more


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
