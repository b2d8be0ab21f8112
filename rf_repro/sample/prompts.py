"""Prompts as a model reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from evaluators.vlm.protocol import Parts
from rf_repro.data.packing import TextTokens


@dataclass(frozen=True)
class Captions:
    """Texts to draw: ids int64 [T] each, what stands for no text, and rows of the embedding table."""

    ids: list[Tensor]
    tokens: TextTokens
    vocab_size: int


class PromptReader(Protocol):
    """How a world's model reads questions and spells answers."""

    eos_id: int
    vocab_size: int

    def prompt(self, parts: Parts) -> list[Tensor]:
        """Segments without their batch axis: images float32 [3, H, W] in [-1, 1], ids int64 [T]. Raises UserError when the model
        cannot be asked this."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """An answer up to its eos."""
        ...

    def answer(self, text: str) -> list[int]:
        """The ids of an answer, without its eos, cut as in training. Raises UserError when the model cannot say it."""
        ...
