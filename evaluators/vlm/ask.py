"""Asks a model all questions of a benchmark and keeps its replies: resumable, shared between processes, failures named.

A store is a JSON-lines file. Its first line, the identity, says who was asked and how; a store never holds replies of two kinds.
Then a line a reply, `{"key", "answer"}`, `{"key", "probabilities"}` or `{"key", "failure"}`, appended batch by batch as they
come. A process killed at any time loses the batch in flight. Batches follow from the questions alone, and one that was
interrupted is asked again as a whole, so that a resumed run ends with the bytes of an undisturbed one.

Shard i of n takes every n-th batch and writes a store of its own beside the first, `NAME.shard-i-of-n.jsonl`; a later call
without a shard reads all of them together and asks what is left.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.vlm.protocol import Parts, Query, SomeFailed, VisionLanguageModel
from rf_repro.core.errors import UserError
from rf_repro.core.file_lock import Held, file_lock
from rf_repro.core.files import read_jsonl, write_jsonl

GIVE_UP = 50  # failures in a row after which the fault is not the questions'
_KINDS: dict[str, type] = {"answer": str, "probabilities": list, "failure": str}


@dataclass(frozen=True)
class Replies:
    """By the questions' keys; each key asked is in exactly one of them."""

    answers: dict[str, str] = field(default_factory=dict)
    probabilities: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def ask(
    queries: Sequence[Query],
    model: VisionLanguageModel,
    store: Path,
    *,
    protocol: str,
    max_new_tokens: int = 0,
    batch_size: int = 1,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replies:
    """The replies to all questions of the shard; those in the store are not asked again, except failures.

    Args:
        store: a file, made where there is none.
        protocol: names all that decides what is asked: data and their version, prompt template, choices.
        max_new_tokens: of an answer; 0 where only probabilities are asked.
        batch_size: questions given to the model at once. Part of the identity: it may change the last bits of a reply.
        shard: (index, count).
        progress: called with (questions done, questions of the shard).

    Raises:
        UserError: the store is of another model, protocol, settings or sizes, or in use; the model cannot be asked; or
            `GIVE_UP` questions in a row fail.
        ValueError: two questions have one key, or a number is out of its range.
    """
    if len({query.key for query in queries}) < len(queries):
        raise ValueError(f"{protocol}: two queries have one key")
    if batch_size < 1 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"batch_size={batch_size}, shard={shard}: must be >= 1, and an index below its count")
    if max_new_tokens < 1 and any(not query.choices for query in queries):
        raise ValueError(f"max_new_tokens={max_new_tokens}: must be >= 1 where answers are asked")
    identity = {
        "model": model.revision, "settings": dict(model.settings), "protocol": protocol, "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
    }  # fmt: skip
    identity = json.loads(json.dumps(identity, allow_nan=False))  # as it will be read again
    batches = make_batches(queries, batch_size)[shard[0] :: shard[1]]
    path = store if shard[1] == 1 else shard_path(store, shard)
    with _locked(path):
        known = {} if shard[1] > 1 else _read_shards(store, identity)
        known |= _read(path, identity)
        _write(path, identity, queries, known)  # whole lines and no failures: what is appended follows them
        done, total = sum(query.key in known for batch in batches for query in batch), sum(map(len, batches))
        progress(done, total)
        failed_in_a_row = 0
        for batch in batches:
            if all(query.key in known for query in batch):
                continue
            rows = [row for row in _ask_batch(batch, model, max_new_tokens) if row["key"] not in known]
            with open(path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
            for row in rows:
                failed_in_a_row = failed_in_a_row + 1 if "failure" in row else 0
                known[row["key"]] = row
            done += len(rows)
            progress(done, total)
            if failed_in_a_row >= GIVE_UP:
                reason = rows[-1]["failure"]
                raise UserError(f"{protocol}: {failed_in_a_row} questions in a row failed, the last with: {reason}")
        _write(path, identity, queries, known)  # in the questions' order, whatever failed and was asked again
    replies = Replies()
    for query in (query for batch in batches for query in batch):
        _sort_in(replies, known[query.key])
    return replies


def make_batches(queries: Sequence[Query], batch_size: int) -> list[list[Query]]:
    """Questions that want an answer and those that want probabilities apart, each in their order."""
    batches = []
    for wants_answer in (True, False):
        same = [query for query in queries if (not query.choices) == wants_answer]
        batches += [same[first : first + batch_size] for first in range(0, len(same), batch_size)]
    return batches


def shard_path(store: Path, shard: tuple[int, int]) -> Path:
    """Where a shard, (index, count), keeps its replies."""
    return store.with_name(f"{store.stem}.shard-{shard[0] + 1}-of-{shard[1]}{store.suffix}")


def _ask_batch(batch: Sequence[Query], model: VisionLanguageModel, max_new_tokens: int) -> list[dict[str, Any]]:
    """A row of each question."""
    failures: dict[str, str] = {}
    loaded: list[tuple[Query, Parts]] = []
    for query in batch:
        try:
            loaded.append((query, query.load()))
        except Exception as error:  # of files, decoders, archives: any kind, and never an answer
            failures[query.key] = f"cannot be loaded: {_one_line(error)}"
    kind = "probabilities" if batch[0].choices else "answer"
    replies: Sequence[Any] = []
    if loaded:
        parts = [own for _, own in loaded]
        try:
            if kind == "answer":
                replies = model.answer(parts, max_new_tokens)
            else:
                replies = model.choice_probabilities(parts, [query.choices for query, _ in loaded])
        except SomeFailed as some:
            replies = some.replies
            failures |= {loaded[index][0].key: reason for index, reason in some.reasons.items()}
    found = {query.key: reply for (query, _), reply in zip(loaded, replies, strict=True)}
    for query, _ in loaded:
        if kind == "probabilities" and query.key not in failures:
            values = found[query.key]
            if len(values) != len(query.choices) or not all(map(math.isfinite, values)):
                raise UserError(f"{model.revision}: {query.key}: has {values} as probabilities of {len(query.choices)} choices")
    return [
        {"key": query.key, "failure": failures[query.key]}
        if query.key in failures
        else {"key": query.key, kind: found[query.key]}
        for query in batch
    ]


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _sort_in(replies: Replies, row: Mapping[str, Any]) -> None:
    if "answer" in row:
        replies.answers[row["key"]] = row["answer"]
    elif "probabilities" in row:
        replies.probabilities[row["key"]] = row["probabilities"]
    else:
        replies.failures[row["key"]] = row["failure"]


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Key -> its row, failures left out; {} where there is no store. Raises UserError when it is of another identity."""
    rows = read_jsonl(path) if path.exists() else []
    if not rows:
        return {}
    first, *rows = rows
    if not isinstance(first, dict):
        raise UserError(f"{path}: holds no replies; name another out=FOLDER, or delete this file")
    for name in identity:
        if first.get(name) != identity[name]:
            problem = f"its replies are of another {name}, {first.get(name)!r}, not {identity[name]!r}"
            raise UserError(f"{path}: {problem}; name another out=FOLDER, or delete this file")
    known = {}
    for number, row in enumerate(rows, start=2):
        kinds = [kind for kind in _KINDS if kind in row] if isinstance(row, dict) else []
        if len(kinds) != 1 or not isinstance(row.get("key"), str) or not isinstance(row[kinds[0]], _KINDS[kinds[0]]):
            raise UserError(f"{path}:{number}: not a reply; delete the line")
        if kinds != ["failure"]:
            known[row["key"]] = row
    return known


def _read_shards(store: Path, identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    head, tail = f"{store.stem}.shard-", store.suffix
    for path in sorted(store.parent.glob("*")):
        if path.name.startswith(head) and path.name.endswith(tail):
            known |= _read(path, identity)
    return known


def _write(path: Path, identity: Mapping[str, Any], queries: Sequence[Query], known: Mapping[str, dict[str, Any]]) -> None:
    """The whole store in the questions' order; replies to others, asked earlier, after them."""
    asked = [query.key for query in queries]
    others = sorted(known.keys() - set(asked))
    write_jsonl(path, [dict(identity), *(known[key] for key in (*asked, *others) if key in known)])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time writes a store."""
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path.with_name(f".{path.name}.lock"), patience=0))
        except Held:
            raise UserError(f"{path}: another process writes to it; wait for it, or give each its own share") from None
        yield
