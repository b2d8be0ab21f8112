"""From one prompt set to another: every prompt in the words of a chat model, everything else as it was.

Rewrites are kept in OUT.cache.jsonl beside the result as soon as they are made. Its first line says by what: model, template and
settings of generation; a file never holds rewrites of two kinds. Prompts are rewritten in batches that depend on the prompt set
alone, and a batch that was interrupted is done again as a whole, so that a resumed run writes what an undisturbed one does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from evaluators.rewriter.template import fill
from rf_repro.core.errors import UserError
from rf_repro.core.files import append_jsonl, read_jsonl, write_jsonl
from rf_repro.core.hashing import content_hash


@dataclass(frozen=True)
class Reply:
    """A model's answer; `complete` is False when it was cut at the limit of its length."""

    text: str
    complete: bool


class ChatModel(Protocol):
    """Answers texts, the same text always in the same words."""

    @property
    def revision(self) -> str:
        """Tells weights apart."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that may change an answer beside the weights; JSON-serialisable."""
        ...

    def reply(self, texts: Sequence[str]) -> list[Reply]: ...


@dataclass(frozen=True)
class Rewritten:
    """The new prompt set, and how many of its different prompts were cut."""

    rows: list[dict[str, Any]]
    cut: int


def rewrite(
    rows: Sequence[dict[str, Any]],
    model: ChatModel,
    template: str,
    out: Path,
    *,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rewritten:
    """Writes `out`, a JSON-lines file with the rows' prompts rewritten and their other fields untouched, in their order.

    Args:
        template: a text with `{prompt}`.
        batch_size: prompts given to the model at once.
        progress: called with (prompts done, prompts in all) after each batch.

    Raises:
        UserError: `out` is there and was not made by this function, its rewrites are by another model, template or settings,
            or the model has nothing to say about a prompt.
    """
    source = {
        "model": model.revision,
        "template_sha256": sha256(template.encode()).hexdigest(),
        "settings": dict(model.settings),
        "template": template,
    }
    cache = cache_path(out)
    known = _open_cache(cache, source)
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        if not all(prompt in known for prompt in batch):
            replies = model.reply([fill(template, prompt) for prompt in batch])
            for prompt, reply in zip(batch, replies, strict=True):
                text = one_line(reply.text)
                if not text:
                    raise UserError(f"{model.revision}: says nothing about {prompt!r}; try another model or template")
                if prompt not in known:
                    row = {"key": _key(source, prompt), "prompt": prompt, "rewritten": text, "complete": reply.complete}
                    append_jsonl(cache, row)
                    known[prompt] = Reply(text, reply.complete)
        progress(start + len(batch), len(prompts))
    rewritten = [{**row, "prompt": known[row["prompt"]].text} for row in rows]
    write_jsonl(out, rewritten)
    return Rewritten(rewritten, sum(not known[prompt].complete for prompt in prompts))


def cache_path(out: Path) -> Path:
    """The file of rewrites beside `out`. Raises UserError when `out` is there without it: something else made it."""
    cache = out.with_suffix(".cache.jsonl")
    if out.exists() and not cache.exists():
        raise UserError(f"{out}: is there already, without {cache.name}; name a new file")
    return cache


def one_line(text: str) -> str:
    """A reply as a prompt: on one line, without the thoughts that a reasoning model puts before its answer."""
    answer = text.rpartition("</think>")[2].partition("<think>")[0]  # thoughts that were cut leave no answer
    return " ".join(answer.split())


def _key(source: Mapping[str, Any], prompt: str) -> str:
    return content_hash([source["model"], source["template_sha256"], source["settings"], prompt])


def _open_cache(path: Path, source: Mapping[str, Any]) -> dict[str, Reply]:
    """Prompt -> its rewrite, of a cache that then takes further lines; it is begun where there is none."""
    if not path.exists():
        write_jsonl(path, [dict(source)])
        return {}
    first, *rows = read_jsonl(path) or [{}]
    changed = [name for name in ("model", "template_sha256", "settings") if first.get(name) != source[name]]
    if changed:
        then, now = first.get(changed[0]), source[changed[0]]
        problem = f"its rewrites are by another {changed[0]}, {then!r}, not {now!r}"
        raise UserError(f"{path}: {problem}; name another out=FILE, or delete this file and the result")
    for number, row in enumerate(rows, start=2):
        if row.get("key") != _key(source, row.get("prompt", "")):
            raise UserError(f"{path}:{number}: not a rewrite of this file's model, template and settings; delete the line")
    write_jsonl(path, [first, *rows])  # whole lines only: a kill may have left a part of one, which the next would continue
    return {row["prompt"]: Reply(row["rewritten"], row["complete"]) for row in rows}
