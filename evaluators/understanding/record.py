"""A benchmark's questions: as a file holds them, and as this package asks and scores them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rf_repro.core.errors import UserError

Layout = Literal["columns", "tsv"]  # the data set's own columns (parquet, arrow, hub), or VLMEvalKit's
LoadImages = Callable[[], dict[int, bytes]]  # encoded images by number, from 1; raises what is wrong with them


@dataclass(frozen=True)
class Record:
    """One row of a file without its images.

    Attributes:
        where: file and row, for messages.
        layout: whose columns these are.
        values: column -> text, number, list or mapping; empty cells of a TSV are left out.
        number: position among all rows of the data.
    """

    where: str
    layout: Layout
    values: Mapping[str, Any]
    load: LoadImages
    number: int = 0

    def text(self, *names: str) -> str:
        """The first of these columns that is there, as text. Raises UserError when none is."""
        for name in names:
            if self.values.get(name) is not None:
                return str(self.values[name])
        there = ", ".join(list(self.values)[:20]) or "nothing"
        raise UserError(f"{self.where}: has no column {' or '.join(names)}, it has {there}; is it this benchmark's file?")

    def optional(self, *names: str) -> str:
        """As `text`, "" when none is there."""
        return self.text(*names) if any(self.values.get(name) is not None for name in names) else ""


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
        key: unique in the benchmark.
        question: in the data's words, without options unless they are part of it.
        answer: what is right, as the metrics module of the benchmark takes it.
        fields: what prompts and metrics need besides: options, category, ids.
        cluster: what alike questions share (an image, a document); intervals are over clusters.
        layout: of the file it is from.
    """

    key: str
    question: str
    answer: Any
    fields: Mapping[str, Any]
    cluster: str
    layout: Layout
    load: LoadImages
