"""DPG-Bench on a scanned folder: asks a judge, scores in both ways, and says what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evaluators.dpg.data import Benchmark
from evaluators.dpg.folder import ItemFile, Scan
from evaluators.dpg.judge import Judge, key_of
from evaluators.dpg.scoring import (
    FileAnswers,
    FileScore,
    Summary,
    score_fixed,
    score_official,
    summarize_fixed,
    summarize_official,
)
from evaluators.vlm.ask import Replies, ask
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import canonical_json
from rf_repro.core.records import EvalResult

Compat = Literal["official", "fixed", "both"]
TASK = "dpg"  # the one task of an item, and the metric that tables read


@dataclass(frozen=True)
class Outcome:
    """A score in each way that was asked for, and a row a file.

    `failures`: file -> why it has no score; `dropped`: file -> why the official script would leave it out.
    """

    result: EvalResult
    rows: list[dict[str, Any]]
    fixed: Summary | None
    official: Summary | None
    failures: dict[str, str]
    dropped: dict[str, str]


def require_complete(found: Scan, compat: Compat) -> None:
    """Raises UserError unless each item has exactly one whole file of the right size; the official script takes what it finds."""
    if compat != "official" and found.blocking:
        count = len(found.blocking)
        raise UserError(
            f"{found.root}: {count} problem{'' if count == 1 else 's'}, first {found.blocking[0]}; "
            "complete the folder, or give --compat official, which scores what it finds"
        )


def evaluate(
    found: Scan,
    benchmark: Benchmark,
    judge: Judge,
    store: Path,
    *,
    compat: Compat = "both",
    batch_size: int = 1,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome | None:
    """Asks what the store does not know yet, then scores; None for a share of the questions, which is only asked.

    Args:
        store: of replies, see `evaluators.vlm.ask`.
        shard: (index, count).
        progress: called with (questions answered, questions).

    Raises:
        UserError: the folder is not complete (unless `compat` is official), or `ask` cannot go on.
    """
    require_complete(found, compat)
    items = benchmark.items
    asked = ((crop, question.text) for file in found.files for crop in file.crops for question in items[file.item_id])
    replies = ask(
        judge.queries(asked), judge.model, store, protocol=judge.protocol, max_new_tokens=judge.max_new_tokens,
        batch_size=batch_size, shard=shard, progress=progress,
    )  # fmt: skip
    if shard != (0, 1):
        return None
    answers = [_answers(file, benchmark, judge, replies) for file in found.files]
    fixed = None if compat == "official" else score_fixed(benchmark, answers)
    official = None if compat == "fixed" else score_official(benchmark, answers)
    return _outcome(found, benchmark, judge, fixed, official)


def _answers(file: ItemFile, benchmark: Benchmark, judge: Judge, replies: Replies) -> FileAnswers:
    if file.failure:
        return FileAnswers(file.item_id, (), file.failure)
    images = []
    for crop in file.crops:
        image = {}
        for question in benchmark.items[file.item_id]:
            key = key_of(crop, question.text)
            said = judge.said_yes(key, replies)
            if said is None:
                return FileAnswers(file.item_id, (), f"question {question.text!r}: {replies.failures.get(key, 'not asked')}")
            image[question.text] = said
        images.append(image)
    return FileAnswers(file.item_id, tuple(images))


def _outcome(
    found: Scan,
    benchmark: Benchmark,
    judge: Judge,
    fixed: Sequence[FileScore | str] | None,
    official: Sequence[FileScore | str] | None,
) -> Outcome:
    main = fixed if fixed is not None else official
    assert main is not None
    rows = [_row(file, benchmark, main[i], None if official is None else official[i]) for i, file in enumerate(found.files)]
    fixed_summary = None if fixed is None else summarize_fixed(fixed)
    official_summary = None if official is None else summarize_official(official)
    failures = _reasons(found, fixed if fixed is not None else official)
    metrics: dict[str, float | None] = {TASK: None}
    missing: dict[str, str] = {}
    if fixed_summary is None:
        missing[TASK] = "--compat official alone: see dpg_official"
    else:
        metrics |= _metrics(TASK, fixed_summary)
        if failures:
            missing[TASK] = f"{len(failures)} of {len(rows)} files have no score, first: {next(iter(failures.values()))}"
    if official_summary is not None:
        metrics |= _metrics(f"{TASK}_official", official_summary)
        if official_summary.score is None:
            missing[f"{TASK}_official"] = "every file is dropped"
    per_item = len(found.files[0].crops) or "?"
    result = EvalResult(
        benchmark=judge.label.lower(),
        protocol=f"{benchmark.name}, {per_item} image{'' if per_item == 1 else 's'} a prompt at {found.resolution} px, "
        f"{judge.label}",
        metrics=metrics,
        n=len(rows) - len(failures),
        expected_n=len(benchmark.items),
        failures=len(failures),
        missing=missing,
        evaluator={
            "judge": judge.name,
            "judge_revision": judge.model.revision,
            "judge_settings": canonical_json(dict(judge.model.settings)),
        },
    )
    return Outcome(result, rows, fixed_summary, official_summary, failures, _reasons(found, official))


def _reasons(found: Scan, scored: Sequence[FileScore | str] | None) -> dict[str, str]:
    """File -> why it has no score."""
    pairs = zip(found.files, scored or (), strict=scored is not None)
    return {file.name: own for file, own in pairs if isinstance(own, str)}


def _metrics(name: str, summary: Summary) -> dict[str, float | None]:
    """`dpg`, `dpg/l1/entity`, `dpg/l2/entity - whole` and on."""
    groups = ((1, summary.level1), (2, summary.level2))
    levels = {f"{name}/l{n}/{category}": score for n, group in groups for category, (score, _) in group.items()}
    return {name: summary.score, **levels}


def _row(file: ItemFile, benchmark: Benchmark, scored: FileScore | str, official: FileScore | str | None) -> dict[str, Any]:
    """`correct` is the file's score, a fraction; `images` say what it is made of, in the CSV's order of questions."""
    return {
        "tag": TASK,
        "item_id": file.item_id,
        "file": file.name,
        "prompt": benchmark.prompts[file.item_id],
        "correct": scored.score if isinstance(scored, FileScore) else None,
        "reason": "" if isinstance(scored, FileScore) else scored,
        "questions": [question.id for question in scored.questions] if isinstance(scored, FileScore) else [],
        "images": [
            {"sha256": crop.digest, "score": score, "answers": list(answers), "after_parents": list(after)}
            for crop, score, answers, after in zip(file.crops, scored.images, scored.answers, scored.scores, strict=True)
        ]
        if isinstance(scored, FileScore)
        else [],
        "official": official.score if isinstance(official, FileScore) else None,
        "official_reason": official if isinstance(official, str) else "",
    }
