"""The document as GitHub-flavoured Markdown; figures are linked from `figures/`."""

from collections.abc import Sequence

from reports.claims_text import finding, published
from reports.document import Document, Figure
from reports.escape import for_markdown, for_markdown_block
from reports.tables import Table


def render_markdown(document: Document) -> str:
    """The whole page. Text from records is escaped, so a prompt can neither break a table nor inject HTML."""
    parts = [f"# {for_markdown(document.title)}", for_markdown_block(document.introduction), "## Claims"]
    parts.append(
        grid(
            ("Claim", "Table", "Verdict", "Measured", "Published"),
            [
                (
                    f"{for_markdown(result.claim.statement)} (`{result.claim.id}`)",
                    for_markdown(result.title),
                    f"**{result.verdict}**",
                    for_markdown(finding(result)),
                    for_markdown(published(result)),
                )
                for result in document.claims
            ],
        )
    )
    for section in document.sections:
        parts.append(f"## {for_markdown(section.heading)}")
        for block in section.blocks:
            parts += _block(block)
    if document.browser:
        parts += ["## Kinds of failure", *_table(document.browser.summary), "The images themselves are in report.html."]
    return "\n\n".join(parts) + "\n"


def _block(block: str | Table | Figure) -> list[str]:
    if isinstance(block, str):
        return [for_markdown_block(block)]
    if isinstance(block, Table):
        return _table(block)
    title = for_markdown(block.title)
    return [f"**{title}**", f"![{title}](figures/{block.name}.png)", for_markdown_block(block.caption)]


def _table(table: Table) -> list[str]:
    cells = [[for_markdown(cell) for cell in row] for row in table.rows]
    return [
        f"### {for_markdown(table.title)}",
        for_markdown_block(table.caption),
        grid([for_markdown(name) for name in table.header], cells),
        *(for_markdown_block(note) for note in table.notes),
    ]


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
