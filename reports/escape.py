"""Text of records, prompts, answers and file names made inert: one function for each kind of file that a report writes.

Each shows what cannot be seen as its code, and leaves what was harmless as it was.
"""

import re
from typing import Any

from markupsafe import Markup

from rf_repro.core.shown import one_line

# What begins a heading, a quotation, a list, a fence or a rule.
_BLOCK = re.compile(r"[#>=~]|[+-](?=[\s+-]|$)|\d+(?=[.)](?:\s|$))")
_FORMULA = re.compile(r"\s*[=+\-@\uff0b\uff0d\uff1d\uff20](?!$)")  # the last four are full-width
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''", "`": r"\textasciigrave{}",
}  # fmt: skip
SYMBOLS = {
    "−": "$-$", "–": "--", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$", "×": r"$\times$", "±": r"$\pm$",
    "†": r"$\dagger$", "✓": r"$\surd$", "✗": r"$\times$", "α": r"$\alpha$", "τ": r"$\tau$", "’": "'", "…": r"\ldots{}",
    "“": "``", "”": "''", "·": r"$\cdot$",
}  # fmt: skip


def for_markdown(text: str) -> str:
    """As part of a line or a table's cell in GitHub's Markdown: no HTML, no links, no mathematics, no end of a cell."""
    text = one_line(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for character in "|*`$~":
        text = text.replace(character, f"\\{character}")
    return re.sub(r"\](?=[(:\[])", "]\\\\", text)


def for_markdown_block(text: str) -> str:
    """As a paragraph of its own, whatever it begins with."""
    text = for_markdown(text)
    found = _BLOCK.match(text)
    at = (found.end() if text[0].isdigit() else 0) if found else 0
    return f"{text[:at]}\\{text[at:]}" if found else text


def for_latex(text: str) -> str:
    """Plain text in LaTeX. Characters that pdfTeX's usual fonts lack are written as their code point."""
    return "".join(map(_latex, " ".join(text.split())))


def for_html(value: Any) -> Any:
    """A value on its way into a page, where `<`, `>`, `&` and quotes are escaped next. Markup of ours stays as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isprintable():
        return value
    return "".join(letter if letter in "\n\t\u00a0" else one_line(letter) for letter in value)


def for_csv(value: Any) -> Any:
    """A value of a CSV file, which spreadsheets open: text that they would compute begins with an apostrophe. Numbers, also
    those that are written as text, are themselves."""
    if not isinstance(value, str):
        return value
    return f"'{one_line(value)}" if _FORMULA.match(value) and not _is_number(value) else one_line(value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None


def _latex(character: str) -> str:
    known = LATEX.get(character) or SYMBOLS.get(character)
    if known:
        return known
    plain = " " <= character <= "~" or ("\u00c0" <= character <= "\u00ff" and character not in "ÐÞðþ")
    return character if plain else f"\\texttt{{U+{ord(character):04X}}}"
