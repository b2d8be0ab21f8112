"""Tables ready to print: cells as text for readers, `records` as numbers for CSV, footnotes for what a number hides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.statistics import Interval
from rf_repro.config.overrides import from_dict
from rf_repro.core.shown import one_line
from rf_repro.worlds import world_of


@dataclass(frozen=True)
class Table:
    """`name` is the stem of its files; `rows` hold text of `len(header)` cells; the first column names the row.

    `printed` tables are also written as LaTeX; the others are reference matter of the page.
    """

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    printed: bool = True


@dataclass
class Footnotes:
    """Lettered notes in order of first mention; one text gets one letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, notes: Sequence[str]) -> str:
        """The marks to print after a number, e.g. ` (a, b)`; empty without notes."""
        for text in notes:
            if text not in self.texts:
                self.texts.append(text)
        letters = [chr(ord("a") + self.texts.index(text)) for text in notes]
        return f" ({', '.join(letters)})" if letters else ""

    def lines(self) -> tuple[str, ...]:
        return tuple(f"({chr(ord('a') + index)}) {text}." for index, text in enumerate(self.texts))


def show(score: Interval, signed: bool = False, digits: int = 3) -> str:
    """`0.731 [0.702, 0.758]`, with signs for a difference."""
    form = f"{'+' if signed else ''}z.{digits}f"  # z: no negative zero
    return f"{score.estimate:{form}} [{score.low:{form}}, {score.high:{form}}]"


def scale_label(scale: str, config: Mapping[str, Any]) -> str:
    """What a title says of the scale: `scale tiny (procedural scenes, 24 px)`."""
    whole = from_dict(config)
    return f"scale {scale} ({world_of(whole).label(whole)})"


def numbers(score: Interval | None) -> dict[str, Any]:
    """The columns of CSV that an interval fills."""
    if score is None:
        return {"measured": None, "low": None, "high": None, "n": 0, "seeds": ""}
    seeds = " ".join(map(str, score.seeds))
    return {"measured": score.estimate, "low": score.low, "high": score.high, "n": score.n, "seeds": seeds}


def plain(table: Table) -> str:
    """The table as aligned columns of text, for a terminal."""
    lines = [[one_line(cell) for cell in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
