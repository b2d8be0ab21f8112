"""The document as GitHub-flavoured Markdown; figures are linked from `figures/`."""

from collections.abc import Sequence

from reports.document import Document, finding, published
from reports.tables import Table


def render_markdown(document: Document) -> str:
    """The whole page. Text from records is escaped, so a prompt can neither break a table nor inject HTML."""
    parts = [f"# {document.title}", escape(document.introduction), "## Claims"]
    parts.append(
        _grid(
            ("Claim", "Table", "Verdict", "Measured", "Published"),
            [
                (
                    f"{escape(result.claim.statement)} (`{result.claim.id}`)",
                    result.claim.table,
                    f"**{result.verdict}**",
                    escape(finding(result)),
                    escape(published(result)),
                )
                for result in document.claims
            ],
        )
    )
    for section in document.sections:
        parts += [f"## {escape(section.heading)}", *([escape(section.text)] if section.text else [])]
        for table in section.tables:
            parts += _table(table)
        for figure in section.figures:
            parts += [
                f"**{escape(figure.title)}**",
                f"![{escape(figure.title)}](figures/{figure.name}.png)",
                escape(figure.caption),
            ]
    return "\n\n".join(parts) + "\n"


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
        _grid([escape(name) for name in table.header], cells),
        *(escape(note) for note in table.notes),
    ]


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
