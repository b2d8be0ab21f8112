"""Who answers DPG-Bench's questions, and how they are put.

The published numbers are mPLUG's: the bare question, and "yes" when its answer is exactly that. Any other vision-language model
is asked to answer yes or no, and the probabilities of the two words are compared. That is another measurement: its numbers are
always labelled `DPG(judge)`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from evaluators.dpg.folder import Crop, crop_of
from evaluators.vlm.ask import Replies
from evaluators.vlm.protocol import Parts, Query, VisionLanguageModel

TEMPLATE = "{question} Answer yes or no."
YES = ("Yes", "yes", " yes", " Yes")
NO = ("No", "no", " no", " No")
MPLUG_TOKENS = 10  # its own limit; part of what identifies its replies


@dataclass(frozen=True)
class Judge:
    """`name` is as a label shows it; `is_mplug`: asked as the official script does."""

    name: str
    model: VisionLanguageModel
    is_mplug: bool = False

    @property
    def label(self) -> str:
        return "DPG" if self.is_mplug else f"DPG({self.name})"

    @property
    def protocol(self) -> str:
        """All that decides what is asked, without the benchmark's file: the replies to a question about an image are its own."""
        return "dpg, mPLUG, text == 'yes'" if self.is_mplug else f"dpg, {TEMPLATE!r}, P{YES} > P{NO}"

    @property
    def max_new_tokens(self) -> int:
        return MPLUG_TOKENS if self.is_mplug else 0

    def query(self, crop: Crop, question: str) -> Query:
        text = question if self.is_mplug else TEMPLATE.format(question=question)

        def load() -> Parts:
            return (crop_of(crop), text)

        return Query(key_of(crop, question), load, () if self.is_mplug else (YES, NO))

    def queries(self, asked: Iterable[tuple[Crop, str]]) -> list[Query]:
        """One of each (image, question), in order: equal images are asked about once."""
        unique: dict[str, tuple[Crop, str]] = {}
        for crop, question in asked:
            unique.setdefault(key_of(crop, question), (crop, question))
        return [self.query(crop, question) for crop, question in unique.values()]

    def said_yes(self, key: str, replies: Replies) -> bool | None:
        """None where the question has no reply. A tie is a no."""
        if key in replies.answers:
            return replies.answers[key] == "yes"
        if key in replies.probabilities:
            yes, no = replies.probabilities[key]
            return yes > no
        return None


def key_of(crop: Crop, question: str) -> str:
    return f"{crop.digest} {question}"
