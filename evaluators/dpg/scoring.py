"""From answers to DPG-Bench's numbers, in two ways: as the official script computes them, and as the benchmark means them.

A question whose parent was answered "no" counts as 0 whatever its own answer. Questions are walked in the CSV's order and a
zeroed parent zeroes its own children, where they come later. An image's score is the mean over its questions, a file's the mean
over its (four) images, DPG the mean over files.

`official` repeats what ELLA's compute_dpg_bench.py does (commit 3c228f1, run in one process):
    - the CSV's first row is skipped: its prompt, `partiprompts97`, then lacks a parent and is dropped with a KeyError (ELLA#61);
    - rows of one prompt that are apart: the later group replaces the earlier; one number given twice: the later row replaces the
      earlier, in its place;
    - categories are scored from the last image of each file alone, by its answers before the parent rule (ELLA#60);
    - a file that raises any exception is left out of all means.
In several processes the script also mixes categories up, in another way each time; that is not repeated.

`fixed`: all rows, all images, categories after the parent rule, and every file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from evaluators.dpg.data import Benchmark, Question, level1

Answers = Mapping[str, bool]  # text of a question -> whether the answer was yes


@dataclass(frozen=True)
class FileAnswers:
    """One file: what was answered of each of its images, in order; or why nothing is known."""

    item_id: str
    images: tuple[Answers, ...]
    failure: str = ""


@dataclass(frozen=True)
class FileScore:
    """`images[i]` is the mean of `scores[i]`, one number (0 or 1) a question after the parent rule; `answers` are before it."""

    questions: tuple[Question, ...]
    answers: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> list[float]:
        return [sum(scores) / len(scores) for scores in self.scores]

    @property
    def score(self) -> float:
        return sum(self.images) / len(self.images)


@dataclass(frozen=True)
class Summary:
    """`score`: mean over files, None without any. Categories -> (score, number of answers behind it), sorted by name."""

    score: float | None
    files: int
    level1: dict[str, tuple[float, int]] = field(default_factory=dict)
    level2: dict[str, tuple[float, int]] = field(default_factory=dict)


def zero_children(questions: Sequence[Question], answers: Sequence[int]) -> list[int]:
    """The answers after the parent rule.

    Where one number stands for several questions, any of them that scores 0 zeroes the children.

    Raises:
        KeyError: a parent is no question of these, and is looked at: no earlier parent has zeroed the child already.
    """
    places: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(question.id, []).append(place)
    scores = list(answers)
    for place, question in enumerate(questions):
        for parent in question.parents:
            if any(scores[other] == 0 for other in places[parent]):
                scores[place] = 0
                break
    return scores


def official_questions(rows: Sequence[Question]) -> dict[str, tuple[Question, ...]]:
    """Item -> questions as the official script reads them."""
    found: dict[str, dict[int, Question]] = {}
    previous = None
    for row in rows[1:]:
        if row.item_id != previous:
            found[row.item_id] = {}
        found[row.item_id][row.id] = row  # a number given again keeps its place
        previous = row.item_id
    return {item_id: tuple(questions.values()) for item_id, questions in found.items()}


def score_file(questions: tuple[Question, ...], images: Sequence[Answers]) -> FileScore:
    """Raises KeyError when a parent is no question of these, or a question has no answer."""
    answers = tuple(tuple(int(image[question.text]) for question in questions) for image in images)
    return FileScore(questions, answers, tuple(tuple(zero_children(questions, own)) for own in answers))


def score_official(benchmark: Benchmark, files: Iterable[FileAnswers]) -> list[FileScore | str]:
    """Of each file its score, or why the official script drops it."""
    items = official_questions(benchmark.rows)
    scored: list[FileScore | str] = []
    for file in files:
        if file.failure:
            scored.append(file.failure)
        elif file.item_id not in items:
            scored.append("no such item: all its rows are skipped")
        else:
            try:
                scored.append(score_file(items[file.item_id], file.images))
            except KeyError as error:
                scored.append(f"KeyError: {error}: a parent that was skipped")
    return scored


def score_fixed(benchmark: Benchmark, files: Iterable[FileAnswers]) -> list[FileScore | str]:
    """Of each file its score, or why it has none."""
    items = benchmark.items
    return [file.failure or score_file(items[file.item_id], file.images) for file in files]


def summarize_official(scored: Iterable[FileScore | str]) -> Summary:
    """Categories from each file's last image, before the parent rule."""
    files = [file for file in scored if isinstance(file, FileScore)]
    return _summary(files, [(question.category, answer) for file in files
                            for question, answer in zip(file.questions, file.answers[-1], strict=True)])  # fmt: skip


def summarize_fixed(scored: Iterable[FileScore | str]) -> Summary:
    """Categories from all images, after the parent rule. A file without a score leaves the whole without one."""
    scored = list(scored)
    files = [file for file in scored if isinstance(file, FileScore)]
    if len(files) < len(scored):
        return Summary(None, len(files))
    return _summary(files, [(question.category, score) for file in files for scores in file.scores
                            for question, score in zip(file.questions, scores, strict=True)])  # fmt: skip


def _summary(files: Sequence[FileScore], answers: Sequence[tuple[str, int]]) -> Summary:
    level2: dict[str, list[int]] = {}
    for category, score in answers:
        level2.setdefault(category, []).append(score)
    top: dict[str, list[int]] = {}
    for category, scores in level2.items():
        top.setdefault(level1(category), []).extend(scores)
    return Summary(fmean(file.score for file in files) if files else None, len(files), _means(top), _means(level2))


def _means(groups: Mapping[str, Sequence[int]]) -> dict[str, tuple[float, int]]:
    return {name: (sum(scores) / len(scores), len(scores)) for name, scores in sorted(groups.items())}
