"""From GenEval's metadata to questions: is it there, how many, is it that colour, does it stand so.

They ask for what GenEval's verdict asks for, in GenEval 2's manner, of a judge that sees the image instead of a detector:

    include              "Is there a dog in the image?"                        yes
    count, or exclude    "How many dogs are in the image?"                     the numbers that the metadata allow
    color                "Is the dog red?" ("Are the dogs red?")               yes
    position             "Is the dog to the left of the cat?"                  yes

Where a prompt has two entries of one class, "the dog" would be either: the colour tells them apart ("Is there a red dog in the
image?", "Is the red dog to the left of the blue dog?").
"""

from dataclasses import dataclass

from evaluators.geneval.metadata import Clause, PromptSpec
from evaluators.geneval2.spellings import DIGITS, NO, YES, number
from rf_repro.core.errors import UserError

COUNTS = tuple(DIGITS)  # zero to ten, in words
MOST = len(COUNTS) - 1
RELATIONS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
# Of COCO's names, the last words whose plural is no rule's.
IRREGULAR = {"person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "skis": "skis", "scissors": "scissors",
             "broccoli": "broccoli"}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """`choices` are groups of spellings, each another answer; `right` the indices of those that the prompt allows."""

    kind: str  # exists, count, color or position
    text: str
    answers: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]
    right: tuple[int, ...]


def questions_of(spec: PromptSpec) -> list[Question]:
    """The questions of one prompt, each text once: what there is, then colours and positions.

    Raises:
        UserError: it asks for nothing, or for more objects of a class than the answers count to.
    """
    if not spec.include and not spec.exclude:
        raise UserError(f"prompt {spec.prompt!r}: its metadata ask for nothing that a question could be about")
    asked: dict[str, Question] = {}
    names = list(dict.fromkeys(clause.class_name for clause in (*spec.include, *spec.exclude)))
    for name in names:
        # GenEval's verdict: at least as many as each include asks for, and fewer than each exclude forbids.
        least = max((clause.count for clause in spec.include if clause.class_name == name), default=0)
        forbidden = min((clause.count for clause in spec.exclude if clause.class_name == name), default=None)
        if least > MOST:
            raise UserError(f"prompt {spec.prompt!r}: {least} objects of class {name!r}; answers count to {MOST}")
        found = [_yes_no("exists", f"Is there {_article(name)} in the image?", least > 0)] if least or forbidden == 1 else []
        if least > 1 or (forbidden or 0) > 1:
            found.append(_count(name, least, MOST if forbidden is None else forbidden - 1))
        asked |= {question.text: question for question in found}
    for clause in spec.include:
        subject = _phrase(clause, spec)
        if clause.color is not None:
            if _alone(clause, spec):
                be, noun = ("Is", subject) if clause.count == 1 else ("Are", plural(subject))
                question = _yes_no("color", f"{be} the {noun} {clause.color}?", True)
            else:
                question = _yes_no("color", f"Is there {_article(subject)} in the image?", True)
            asked[question.text] = question
        if clause.position is not None:
            relation, target = clause.position
            reference = spec.include[target]
            be, noun = ("Is", subject) if clause.count == 1 else ("Are", plural(subject))
            other = _phrase(reference, spec)
            other = other if reference.count == 1 else plural(other)
            question = _yes_no("position", f"{be} the {noun} {RELATIONS[relation]} the {other}?", True)
            asked[question.text] = question
    return list(asked.values())


def plural(name: str) -> str:
    """`wine glass` -> `wine glasses`; the last word alone changes."""
    head, space, last = name.rpartition(" ")
    ending = "es" if last.endswith(("s", "x", "ch", "sh")) else "s"
    return head + space + IRREGULAR.get(last, last + ending)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _alone(clause: Clause, spec: PromptSpec) -> bool:
    return sum(other.class_name == clause.class_name for other in spec.include) == 1


def _phrase(clause: Clause, spec: PromptSpec) -> str:
    """The class, with the colour where several entries are of the class."""
    return clause.class_name if clause.color is None or _alone(clause, spec) else f"{clause.color} {clause.class_name}"


def _yes_no(kind: str, text: str, yes: bool) -> Question:
    return Question(kind, text, ("yes", "no"), (YES, NO), (0,) if yes else (1,))


def _count(name: str, least: int, most: int) -> Question:
    right = tuple(range(least, min(most, MOST) + 1))
    return Question("count", f"How many {plural(name)} are in the image?", COUNTS, tuple(map(number, COUNTS)), right)
