"""The document as GitHub-flavoured Markdown; figures are linked from `figures/`."""

from collections.abc import Sequence

from reports.claims_text import finding, published
from reports.document import Document, Figure
from reports.tables import Table


def render_markdown(document: Document) -> str:
    """The whole page. Text from records is escaped, so a prompt can neither break a table nor inject HTML."""
    parts = [f"# {document.title}", escape(document.introduction), "## Claims"]
    parts.append(
        grid(
            ("Claim", "Table", "Verdict", "Measured", "Published"),
            [
                (
                    f"{escape(result.claim.statement)} (`{result.claim.id}`)",
                    escape(result.title),
                    f"**{result.verdict}**",
                    escape(finding(result)),
                    escape(published(result)),
                )
                for result in document.claims
            ],
        )
    )
    for section in document.sections:
        parts.append(f"## {escape(section.heading)}")
        for block in section.blocks:
            parts += _block(block)
    if document.browser:
        parts += ["## Kinds of failure", *_table(document.browser.summary), "The images themselves are in report.html."]
    return "\n\n".join(parts) + "\n"


def _block(block: str | Table | Figure) -> list[str]:
    if isinstance(block, str):
        return [escape(block)]
    if isinstance(block, Table):
        return _table(block)
    title = escape(block.title)
    return [f"**{title}**", f"![{title}](figures/{block.name}.png)", escape(block.caption)]


def escape(text: str) -> str:
    """Plain text made inert in Markdown, tables included."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for character in "|*`":
        text = text.replace(character, f"\\{character}")
    return text.replace("](", "]\\(")


def _table(table: Table) -> list[str]:
    cells = [[escape(cell) for cell in row] for row in table.rows]
    return [
        f"### {escape(table.title)}",
        escape(table.caption),
        grid([escape(name) for name in table.header], cells),
        *(escape(note) for note in table.notes),
    ]


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
