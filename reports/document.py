"""The report as a document, before it is Markdown, LaTeX or HTML: verdicts, then sections of text, tables and figures."""

from dataclasses import dataclass

from reports.browser import Browser
from reports.tables import Table
from reports.verdicts import ClaimResult


@dataclass(frozen=True)
class Figure:
    """`name` is the stem of its PNG file; `pictures` are samples, whose colours must not be touched, not a chart."""

    name: str
    title: str
    caption: str
    png: bytes
    pictures: bool = False


@dataclass(frozen=True)
class Section:
    """`anchor` is its address in the page; strings are paragraphs. `folded` sections are reference matter, closed at first."""

    anchor: str
    heading: str
    blocks: tuple[str | Table | Figure, ...]
    folded: bool = False


@dataclass(frozen=True)
class Document:
    title: str
    introduction: str
    claims: tuple[ClaimResult, ...]
    sections: tuple[Section, ...]
    browser: Browser | None = None

    @property
    def tables(self) -> list[Table]:
        blocks = [block for section in self.sections for block in section.blocks]
        return [block for block in blocks if isinstance(block, Table)] + ([self.browser.summary] if self.browser else [])

    @property
    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
