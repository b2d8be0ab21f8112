"""Tables as LaTeX: one file a table, `\\input` it where `booktabs` is loaded."""

from reports.escape import for_latex
from reports.tables import Table

WIDE = 66  # characters a row beyond which cells are broken into lines
LONGEST = 40  # characters at which a column's share of the width stops growing
TEXT_WIDTH = 0.94  # of the line, shared by the columns of a wide table; the rest is space between them


def render_latex(table: Table) -> str:
    """A `table` environment with booktabs' rules, caption, label `tab:<name>` and notes. Wide tables are set smaller, in
    columns that break lines."""
    grid = [table.header, *table.rows]
    widths = [min(LONGEST, max(8, *(len(row[index]) for row in grid))) for index in range(len(table.header))]
    wide = sum(widths) > WIDE
    if wide:
        spec = "".join(f"p{{{TEXT_WIDTH * width / sum(widths) - 0.004:.3f}\\linewidth}}" for width in widths)
    else:
        spec = "l" * len(widths)
    size = r"\tiny" if len(widths) > 10 else r"\scriptsize" if wide else r"\small"
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{for_latex(table.title)}. {for_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        size + r"\setlength{\tabcolsep}{2pt}" + (r"\raggedright" if wide else ""),
        rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"\toprule",
        _row(table.header, wide),
        r"\midrule",
        *(_row(row, wide) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {for_latex(note)}\par}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...], wide: bool) -> str:
    """One line of cells; in columns that break lines, long names may break after `_` and `/` too."""
    texts = [for_latex(cell) for cell in cells]
    if wide:
        texts = [text.replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}") for text in texts]
    # A cell that begins with a bracket would be read as an option of the line break before it.
    return " & ".join("{}" + text if text.startswith("[") else text for text in texts) + r" \\"
