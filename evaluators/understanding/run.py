"""Asks a model a benchmark's questions and scores what it says, by every variant of the metric."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from evaluators.understanding.benchmark import Benchmark, Template
from evaluators.understanding.data import Questions
from evaluators.understanding.images import rgb_image
from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.record import Row
from evaluators.vlm.ask import Replies, ask
from evaluators.vlm.protocol import Parts, Query, VisionLanguageModel
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_json, write_jsonl
from rf_repro.core.records import EvalResult

PAPER = "paper"  # the metric that stands beside the paper's column
Progress = Callable[[int, int], None]


class Metrics(Protocol):
    """A module of `evaluators.understanding.metrics`."""

    VARIANTS: Sequence[str]
    PAPER_VARIANT: str
    PAPER_METRIC: str

    def score(self, item: Item) -> Scored: ...
    def aggregate(self, scored: Sequence[Scored], items: Sequence[Item]) -> dict[str, float | None]: ...


def metrics_of(benchmark: Benchmark) -> Metrics:
    """The benchmark's parsers and scores."""
    return cast(Metrics, import_module(f"evaluators.understanding.metrics.{benchmark.metrics}"))


@dataclass(frozen=True)
class Outcome:
    """The result, its rows, and the data's rows that could not be read, a line each."""

    result: EvalResult
    items: list[dict[str, Any]]
    problems: tuple[str, ...]


def run_benchmark(
    benchmark: Benchmark,
    questions: Questions,
    model: VisionLanguageModel,
    out: Path,
    *,
    protocol: str = "lmms-eval",
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 1,
    max_new_tokens: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Outcome | None:
    """Asks what was not asked yet, writes `NAME.items.jsonl` and then `NAME.json`; None after a share of the questions.

    Replies are kept in `NAME.replies.jsonl` as they come (`evaluators.vlm.ask`), so that a run that was killed goes on, and
    ends with the same bytes.

    Args:
        out: folder.
        protocol: whose prompts; see `Benchmark.protocols`.
        shard: (index, count) of the share to ask; a run without shares puts all of them together.
        max_new_tokens: of an answer (default: the protocol's).

    Raises:
        UserError: the protocol is unknown or the data are not in its layout; what `ask` raises.
    """
    template = template_of(benchmark, protocol, questions.rows[0])
    tokens = max_new_tokens or template.max_new_tokens
    name = protocol_id(benchmark, questions, protocol, template, tokens)
    replies = ask(
        [Query(row.key, _Loader(row, template)) for row in questions.rows], model, out / f"{benchmark.name}.replies.jsonl",
        protocol=name, max_new_tokens=tokens, batch_size=batch_size, shard=shard, progress=progress,
    )  # fmt: skip
    if shard[1] > 1:
        return None
    outcome = score_replies(benchmark, questions, replies, name, model.revision)
    write_jsonl(out / f"{benchmark.name}.items.jsonl", outcome.items)
    write_json(out / f"{benchmark.name}.json", outcome.result.to_dict())
    return outcome


def score_replies(benchmark: Benchmark, questions: Questions, replies: Replies, protocol: str, revision: str) -> Outcome:
    """Every variant's metrics, over the questions that have a reply.

    A question without one is a failure, never a wrong answer. `paper` is the number for the paper's column: None, with the
    reason in `missing`, where the questions are not exactly the benchmark's.

    Returns:
        With a row a question: tag (the benchmark), key, question, answer, reply, parsed and correct by variant, `correct` by
        the paper's variant (a fraction where the score is one; None for a failure), failure, cluster.
    """
    metrics = metrics_of(benchmark)
    items = [
        Item(row.key, row.answer, replies.answers[row.key], dict(row.fields))
        for row in questions.rows
        if row.key in replies.answers
    ]
    scores = {item.key: metrics.score(item) for item in items}
    values = metrics.aggregate(list(scores.values()), items) if items else {}
    rows = [_item(benchmark, metrics, row, scores.get(row.key), replies) for row in questions.rows]
    failures = len(rows) - len(items)
    missing = {metric: "cannot be measured from these questions and replies" for metric, value in values.items() if value is None}
    why = questions.incomplete(benchmark)
    if failures:
        first = next(row for row in rows if row["failure"])
        told = f"{failures:,} of {len(rows):,} questions have no reply, {first['key']}: {first['failure']}"
        why = f"{why}; {told}" if why else told
    stated = {**values, PAPER: None if why else values[metrics.PAPER_METRIC]}
    if why:
        missing[PAPER] = f"incomplete: {why}"
    if benchmark.column:
        stands_for = f"{metrics.PAPER_METRIC} for {benchmark.column}: inferred, {benchmark.inferred}"
    else:
        stands_for = f"{metrics.PAPER_METRIC}; the paper has no such column"
    result = EvalResult(
        benchmark=benchmark.name,
        protocol=protocol,
        metrics=stated,
        n=len(items),
        expected_n=benchmark.expected,
        failures=failures,
        missing=missing,
        evaluator={"model": revision, "data": questions.source, "scoring": "rules, no judge", PAPER: stands_for},
        items=f"{benchmark.name}.items.jsonl",
    )
    return Outcome(result, rows, questions.problems)


def template_of(benchmark: Benchmark, protocol: str, row: Row) -> Template:
    """How the protocol asks. Raises UserError when there is no such protocol, or it cannot ask from the row's layout."""
    if protocol not in benchmark.protocols:
        raise UserError(f"--protocol {protocol}: not for {benchmark.name}; choose {' or '.join(benchmark.protocols)}")
    template = benchmark.protocols[protocol]
    if row.layout not in template.layouts:
        wanted = "the data set's own columns (parquet, arrow, hub)" if row.layout == "tsv" else "VLMEvalKit's TSV"
        others = [name for name, other in benchmark.protocols.items() if row.layout in other.layouts]
        raise UserError(f"--protocol {protocol}: asks {benchmark.name} from {wanted}; with these data give {' or '.join(others)}")
    return template


def protocol_id(benchmark: Benchmark, questions: Questions, protocol: str, template: Template, tokens: int) -> str:
    """All that decides what is asked but the images' bytes."""
    version = f"v{template.version}"
    return f"{benchmark.name}, {protocol} prompts {version}, up to {tokens} tokens, questions {questions.digest}"


@dataclass(frozen=True)
class _Loader:
    """Makes a question's message when it is asked."""

    row: Row
    template: Template

    def __call__(self) -> Parts:
        return self.template.build(self.row, {number: rgb_image(data) for number, data in self.row.load().items()})


def _item(benchmark: Benchmark, metrics: Metrics, row: Row, score: Scored | None, replies: Replies) -> dict[str, Any]:
    of_paper: Mapping[str, float] = score.correct if score else {}
    return {
        "tag": benchmark.name,
        "key": row.key,
        "question": row.question,
        "answer": row.answer,
        "category": row.fields.get("category"),
        "reply": replies.answers.get(row.key),
        "parsed": score.parsed if score else {},
        "scores": score.correct if score else {},
        "correct": of_paper.get(metrics.PAPER_VARIANT),
        "failure": replies.failures.get(row.key),
        "cluster": row.cluster,
    }
