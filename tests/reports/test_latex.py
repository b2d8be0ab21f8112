"""LaTeX tables: whatever a cell holds is printed as it is, and the file compiles."""

import re
import shutil
import subprocess

import pytest

from reports.build import build_report
from reports.escape import for_latex
from reports.latex import render_latex
from reports.tables import Table
from tests.reports.runs import make_items, write_geneval, write_run

NASTY = '100% of $x_1^2$ & {braces} #3 ~ \\input{/etc/passwd} <b>|"quoted"| `code`'
WORLD = "Unicode: − – ≥ ≤ → × ± † ✓ ✗ é Ü ß … 漢 🙂"
WRAPPER = (
    "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage{booktabs}\n\\begin{document}\n%s\n\\end{document}\n"
)


def table(rows):
    return Table("nasty", NASTY, WORLD, ("Name", "Value_1"), tuple(rows), (), notes=(NASTY,))


def test_every_special_character_is_escaped():
    assert for_latex("a_b") == r"a\_b"
    assert for_latex("50% & $5 #1") == r"50\% \& \$5 \#1"
    assert for_latex("\\end{x}") == r"\textbackslash{}end\{x\}"
    assert for_latex("x^2~y") == r"x\textasciicircum{}2\textasciitilde{}y"
    assert for_latex("≥ 0.98 −1 漢") == r"$\geq$ 0.98 $-$1 \texttt{U+6F22}"
    assert for_latex("two\nlines") == "two lines"
    bare = re.sub(r"\\[a-zA-Z]+(\{\})?|\\.|\$-\$|\$\\[a-z]+\$|\\texttt\{U\+[0-9A-F]+\}", "", for_latex(NASTY + WORLD))
    assert not set("\\{}$&#%_^~") & set(bare.replace("{U+", "").replace("}", ""))


def test_structure_is_booktabs_with_one_row_a_line():
    text = render_latex(table([("[a]", "b"), ("c", "d & e")]))
    lines = text.splitlines()
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert lines.count(rule) == 1
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    assert body == [r"{}[a] & b \\", r"c & d \& e \\"]
    assert "\\label{tab:nasty}" in text
    assert text.count("\\begin{") == text.count("\\end{") == 2


def test_wide_tables_break_lines_within_the_page():
    wide = Table("wide", "t", "c", tuple("abcdefgh"), (tuple(["a cell of thirty-two characters "] * 8),), ())
    widths = [float(width) for width in re.findall(r"p\{([\d.]+)\\linewidth\}", render_latex(wide))]
    assert len(widths) == 8
    assert sum(widths) < 0.95
    assert "linewidth" not in render_latex(table([("a", "b")]))


@pytest.mark.skipif(
    not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="neither pdflatex nor tectonic is installed"
)
def test_every_table_of_a_report_compiles(tmp_path):
    for variant, top in (("pixel", 1), ("pixel_rf", 3)):
        write_geneval(write_run(tmp_path / "runs", variant, 0), make_items(lambda task, index, sample, top=top: index < top))
    build_report([tmp_path / "runs"], tmp_path / "out", "smoke")
    parts = [path.read_text() for path in sorted((tmp_path / "out" / "tables").glob("*.tex"))]
    assert len(parts) >= 10
    nasty = render_latex(table([(NASTY, WORLD), ("[a]", "b")]))
    assert not overfull(compiled(tmp_path, "\n\\clearpage\n".join(parts)), most=30)
    compiled(tmp_path, nasty)


def compiled(folder, body):
    """The log of a run without an error; the page is there."""
    (folder / "all.tex").write_text(WRAPPER % body)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"] if shutil.which("pdflatex") else ["tectonic"]
    done = subprocess.run([*command, "all.tex"], cwd=folder, capture_output=True, text=True, errors="replace", timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "all.pdf").stat().st_size > 10_000
    return done.stdout


def overfull(log, most):
    """Lines that stand out by more than `most` points."""
    return [points for points in re.findall(r"Overfull \\hbox \((\d+\.\d+)pt too wide\)", log) if float(points) > most]
