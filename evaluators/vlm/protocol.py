"""What an evaluator asks of a vision-language model, whatever stands behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image

Parts = tuple["str | Image.Image", ...]
"""Text and RGB images in their order, one user's message; a question about one image is `(image, "text")`."""


@dataclass(frozen=True)
class Query:
    """One question to a model.

    Args:
        key: unique in its benchmark.
        load: makes the parts when they are needed: images of thousands of questions never lie in memory together. What it
            raises is recorded as this question's failure.
        choices: groups of spellings, e.g. `(("Yes", "yes"), ("No", "no"))`, whose probabilities are asked; (): an answer is.
    """

    key: str
    load: Callable[[], Parts]
    choices: tuple[tuple[str, ...], ...] = ()


@runtime_checkable
class VisionLanguageModel(Protocol):
    """Answers the same question always in the same way.

    Both methods raise `SomeFailed` where single questions of a batch had no reply, and UserError where none can have one.
    """

    @property
    def revision(self) -> str:
        """Tells weights, tokenizer, or an endpoint's model apart, for records and caches."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All else that may change a reply: decoding, precision, image sizes; JSON-serialisable."""
        ...

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """Greedy answers, cut at `max_new_tokens` tokens."""
        ...

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        """Of each question, the probability of each of its groups of spellings (`Query.choices`), not renormalised.

        The distribution of the next token over the whole vocabulary, where an answer begins: a group has the sum over the
        *distinct* first tokens of its spellings.
        """
        ...


class SomeFailed(Exception):
    """Questions of a batch that had no reply, beside the replies of the others.

    Attributes:
        replies: one a question; None where it failed.
        reasons: index of a failed question -> one line.
    """

    def __init__(self, replies: Sequence[Any], reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values()), ""))
        self.replies, self.reasons = list(replies), dict(reasons)


def text_of(parts: Parts) -> str:
    """The parts' text without the images."""
    return "".join(part for part in parts if isinstance(part, str))


def images_of(parts: Parts) -> "list[Image.Image]":
    """The parts' images in their order."""
    return [part for part in parts if not isinstance(part, str)]
