"""The README's table of claims, written from records between two marker comments."""

from pathlib import Path

from reports.claims_text import measured_text
from reports.escape import for_markdown
from reports.findings import Findings
from reports.markdown import grid
from reports.verdicts import published_text
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_text


def markers(scale: str) -> tuple[str, str]:
    """The comments around the table of a scale."""
    return f"<!-- begin claims {scale} -->", f"<!-- end claims {scale} -->"


def claims_table(findings: Findings) -> str:
    """Every claim that the suite can test, as Markdown, and a line on the others."""
    tested = [result for result in findings.claims if not result.claim.needs]
    rows = [
        (
            f"{for_markdown(result.claim.statement)} ({result.title})",
            for_markdown(published_text(result.claim)),
            for_markdown(measured_text(result, result.measured)) if result.measured else "–",
            "–" if result.size is None else f"{result.size:.0%}",
            ", ".join(map(str, result.seeds)) or "–",
            result.verdict,
        )
        for result in tested
    ]
    table = grid(("claim", "paper", f"measured at `{findings.scale}` [95%]", "of the paper's size", "seeds", "verdict"), rows)
    others = [result for result in findings.claims if result.claim.needs]
    lines = [table]
    for needs in dict.fromkeys(result.claim.needs for result in others):
        mine = [result for result in others if result.claim.needs == needs]
        tables = ", ".join(dict.fromkeys(result.title for result in mine))
        lines.append(f"Not decidable in this world: {len(mine)} claims of {tables}, which need {for_markdown(needs)}.")
    return "\n\n".join(lines)


def update_readme(path: Path, findings: Findings) -> None:
    """Replaces what stands between the scale's markers.

    Raises:
        UserError: the file is missing, or has not exactly one pair of markers.
    """
    begin, end = markers(findings.scale)
    if not path.is_file():
        raise UserError(f"--readme {path}: no such file")
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    old, closed, after = rest.partition(end)
    if not found or not closed or begin in old + after or end in before + after:
        raise UserError(f"--readme {path}: needs the lines {begin} and {end} once each, in this order")
    write_text(path, f"{before}{begin}\n{claims_table(findings)}\n{end}{after}")
