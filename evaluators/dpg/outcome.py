"""DPG-Bench's result from the replies of a judge: the scores in both ways, and what came of each file."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from evaluators.results import Evaluation
from evaluators.vlm.ask import Replies
from rf_repro.core.hashing import canonical_json
from rf_repro.core.records import EvalResult

Compat = Literal["official", "fixed", "both"]
TASK = "dpg"  # the one task of an item, and the metric that tables read


@dataclass(frozen=True, kw_only=True)
class DPGEvaluation(Evaluation):
    """DPG-Bench's result, a row a file.

    Attributes:
        judge: who answered.
        fixed, official: the scores in each way that was asked for.
        unscored: file -> why it has no score.
        dropped: file -> why the official script would leave it out.
    """

    judge: Judge
    fixed: Summary | None
    official: Summary | None
    unscored: dict[str, str]
    dropped: dict[str, str]


def score_replies(found: Scan, benchmark: Benchmark, judge: Judge, replies: Replies, compat: Compat = "both") -> DPGEvaluation:
    """Scores what the judge replied to all questions about the folder's images."""
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
) -> DPGEvaluation:
    main = fixed if fixed is not None else official
    assert main is not None
    rows = [_row(file, benchmark, main[i], None if official is None else official[i]) for i, file in enumerate(found.files)]
    fixed_summary = None if fixed is None else summarize_fixed(fixed)
    official_summary = None if official is None else summarize_official(official)
    failures = _reasons(found, fixed if fixed is not None else official)
    metrics: dict[str, float | None] = {TASK: None}
    missing: dict[str, str] = {}
    if fixed_summary is None:
        missing[TASK] = "--compat official alone: see dpg_official"  # as records have had it
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
    return DPGEvaluation.of(
        result, rows, problems=found.problems, judge=judge, fixed=fixed_summary, official=official_summary, unscored=failures,
        dropped=_reasons(found, official),
    )  # fmt: skip


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
