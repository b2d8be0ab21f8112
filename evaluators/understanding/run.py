"""Asks a model a benchmark's questions and scores what it says, by every variant of the metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from evaluators.fields import at_least_one
from evaluators.problems import SHOWN
from evaluators.results import ALL, Evaluation, Progress, Share, Tell, counting, kept_in, no_progress, not_told
from evaluators.understanding.benchmark import Benchmark, Template
from evaluators.understanding.benchmarks import named
from evaluators.understanding.data import HUB, Questions, load_questions
from evaluators.understanding.images import rgb_image
from evaluators.understanding.metrics import Item, Scored
from evaluators.understanding.record import Row
from evaluators.vlm.ask import Replies, ask
from evaluators.vlm.options import ModelOptions
from evaluators.vlm.protocol import Parts, Query, VisionLanguageModel
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from rf_repro.core.untrusted.problems import shown

PAPER = "paper"  # the metric that stands beside the paper's column
MAX_REPLY = 65_536  # characters of a reply that is scored: patterns take time with its square


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


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Who answers, which data are asked, and in which words.

    Args:
        model: as of `ModelOptions`.
        data: a folder with a folder of .parquet or .arrow files, or a file, for each benchmark; of one benchmark, its own folder
            or file; `hub`, to download; or `hub:ID`.
        protocol: whose prompts: lmms-eval, vlmevalkit, or bagel for mmmu and mme; see `Benchmark.protocols`.
        max_new_tokens: of an answer (default: the protocol's for the benchmark).
        limit: ask the first so many questions; the paper's number is then not given.
    """

    data: Path | str = HUB
    protocol: Literal["lmms-eval", "vlmevalkit", "bagel"] = "lmms-eval"
    max_new_tokens: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "max_new_tokens", "limit")


@dataclass(frozen=True, kw_only=True)
class BenchmarkEvaluation(Evaluation):
    """A benchmark's result, a row a question.

    Attributes:
        unread: the data's rows that could not be read, a line each.
    """

    unread: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A benchmark with the questions that are to be asked, which the protocol can put into words."""

    benchmark: Benchmark
    questions: Questions


def read_benchmarks(names: str, options: Options) -> list[Asked]:
    """Benchmarks by comma, or `all`, with their questions; mistakes are found before a model is loaded.

    Raises:
        UserError: an unknown benchmark, data that are not its own, or a protocol that cannot ask them.
    """
    wanted, asked = named(names), []
    for benchmark in wanted:
        questions = load_questions(benchmark, str(options.data), alone=len(wanted) == 1, limit=options.limit)
        template_of(benchmark, options.protocol, questions.rows[0])
        asked.append(Asked(benchmark, questions))
    return asked


def evaluate(
    benchmark: str | Asked, options: Options, *, progress: Progress = no_progress, tell: Tell = not_told
) -> BenchmarkEvaluation:
    """Asks a model one benchmark and scores what it says, by every harness's rules.

    With `options.out` it keeps the replies there, and writes `NAME.items.jsonl` (a question a line) and then `NAME.json`. A run
    that was killed goes on, and ends with the same bytes.

    Args:
        benchmark: its name, or what `read_benchmarks` made of it.
        progress: called with the benchmark's name, how many questions are answered, and how many there are.
        tell: called with lines on rows of the data that cannot be read.

    Raises:
        UserError: as `read_benchmarks`, or the model cannot be loaded or asked.
    """
    asked = _asked(benchmark, options)
    model = options.load()
    with kept_in(options.out) as out:
        replies, name = _ask(asked, options, model, out, ALL, progress, tell)
    result = score_replies(asked.benchmark, asked.questions, replies, name, model.revision)
    return result if options.out is None else result.write(out, asked.benchmark.name)


def evaluate_share(
    benchmark: str | Asked, options: Options, share: Share, *, progress: Progress = no_progress, tell: Tell = not_told
) -> int:
    """Asks one of several shares of the questions; `evaluate` scores when all have been asked.

    Args:
        share: (index, count).

    Returns:
        How many questions failed; they are asked again when it is scored.

    Raises:
        UserError: as `evaluate`, or `out` is not given.
    """
    out = options.require_out()
    return len(_ask(_asked(benchmark, options), options, options.load(), out, share, progress, tell)[0].failures)


def _asked(benchmark: str | Asked, options: Options) -> Asked:
    if isinstance(benchmark, Asked):
        return benchmark
    found = read_benchmarks(benchmark, options)
    if len(found) > 1:
        raise UserError(f"benchmark={benchmark!r}: is several; evaluate each by itself")
    return found[0]


def _ask(
    asked: Asked, options: Options, model: VisionLanguageModel, out: Path, share: Share, progress: Progress, tell: Tell
) -> tuple[Replies, str]:
    """(the replies to a share of the questions, the protocol)."""
    benchmark, questions = asked.benchmark, asked.questions
    if questions.problems:
        tell(f"{benchmark.title}: {len(questions.problems)} problems with the data")
    for problem in questions.problems[:SHOWN]:
        tell(f"  {problem}")
    template = template_of(benchmark, options.protocol, questions.rows[0])
    tokens = options.max_new_tokens or template.max_new_tokens
    name = protocol_id(benchmark, questions, options.protocol, template, tokens)
    replies = ask(
        [Query(row.key, _Loader(row, template)) for row in questions.rows], model, out / f"{benchmark.name}.replies.jsonl",
        protocol=name, max_new_tokens=tokens, batch_size=options.questions_at_once, shard=share,
        progress=counting(progress, benchmark.name),
    )  # fmt: skip
    return replies, name


def score_replies(
    benchmark: Benchmark, questions: Questions, replies: Replies, protocol: str, revision: str
) -> BenchmarkEvaluation:
    """Every variant's metrics, over the questions that have a reply.

    A question without one, or whose reply or row no parser can take, is a failure, never a wrong answer, and ends nothing else.
    `paper` is the number for the paper's column: None, with the reason in `missing`, where the questions are not exactly the
    benchmark's.

    Returns:
        With a row a question: tag (the benchmark), key, question, answer, reply, parsed and correct by variant, `correct` by
        the paper's variant (a fraction where the score is one; None for a failure), failure, cluster.
    """
    metrics = metrics_of(benchmark)
    items, scores, unscored = [], {}, dict(replies.failures)
    for row in questions.rows:
        if row.key not in replies.answers:
            continue
        item = Item(row.key, row.answer, replies.answers[row.key], dict(row.fields))
        try:
            if len(item.reply) > MAX_REPLY:
                raise UserError(f"its reply has {len(item.reply):,} characters; at most {MAX_REPLY:,} are scored")
            scores[item.key] = metrics.score(item)
        except Exception as error:  # all questions were asked by now, and one row or reply must not cost the others
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            unscored[item.key] = f"cannot be scored ({kind}{shown(error)})"
        else:
            items.append(item)
    values = metrics.aggregate(list(scores.values()), items) if items else {}
    rows = [_item(benchmark, metrics, row, scores.get(row.key), replies.answers, unscored) for row in questions.rows]
    failures = len(rows) - len(items)
    missing = {metric: "cannot be measured from these questions and replies" for metric, value in values.items() if value is None}
    why = questions.incomplete(benchmark)
    if failures:
        first = next(row for row in rows if row["failure"])
        told = f"{failures:,} of {len(rows):,} questions have no score, {first['key']}: {first['failure']}"
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
    )
    return BenchmarkEvaluation.of(result, rows, unread=questions.problems)


def template_of(benchmark: Benchmark, protocol: str, row: Row) -> Template:
    """How the protocol asks. Raises UserError when there is no such protocol, or it cannot ask from the row's layout."""
    if protocol not in benchmark.protocols:
        raise UserError(f"protocol={protocol!r}: not for {benchmark.name}; choose {' or '.join(benchmark.protocols)}")
    template = benchmark.protocols[protocol]
    if row.layout not in template.layouts:
        wanted = "the data set's own columns (parquet, arrow, hub)" if row.layout == "tsv" else "VLMEvalKit's TSV"
        others = [name for name, other in benchmark.protocols.items() if row.layout in other.layouts]
        raise UserError(f"protocol={protocol!r}: asks {benchmark.name} from {wanted}; with these data give {' or '.join(others)}")
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


def _item(
    benchmark: Benchmark,
    metrics: Metrics,
    row: Row,
    score: Scored | None,
    answers: Mapping[str, str],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    of_paper: Mapping[str, float] = score.correct if score else {}
    return {
        "tag": benchmark.name,
        "key": row.key,
        "question": row.question,
        "answer": row.answer,
        "category": row.fields.get("category"),
        "reply": answers.get(row.key),
        "parsed": score.parsed if score else {},
        "scores": score.correct if score else {},
        "correct": of_paper.get(metrics.PAPER_VARIANT),
        "failure": failures.get(row.key),
        "cluster": row.cluster,
    }
