"""The report as a document, before it is Markdown or HTML: verdicts, then sections of tables and figures."""

from dataclasses import dataclass

from reports.tables import Table, show
from reports.verdicts import ClaimResult


@dataclass(frozen=True)
class Figure:
    """`name` is the stem of its PNG file."""

    name: str
    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """`folded` sections are reference matter: closed in the HTML page until clicked."""

    heading: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Document:
    title: str
    introduction: str
    claims: tuple[ClaimResult, ...]
    sections: tuple[Section, ...]

    @property
    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.figures]


def finding(result: ClaimResult) -> str:
    """One sentence on what was measured for a claim, or why nothing was."""
    if result.difference is None:
        return f"Not run: {result.reason}."
    seeds = result.difference.seeds
    runs = f"seed {seeds[0]}" if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds))
    text = f"Measured difference {show(result.difference, signed=True)}, {runs}, {result.difference.n:,} images of both variants."
    if len(seeds) == 1:
        text += " One seed: training noise is not covered."
    return f"{text} {result.remark}".strip()


def published(result: ClaimResult) -> str:
    """What the paper printed for it."""
    claim = result.claim
    return f"Paper: {claim.paper_better:.2f} against {claim.paper_worse:.2f} ({claim.paper_difference:+.2f}), {claim.section}."
