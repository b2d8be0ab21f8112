"""The document as one HTML page that needs nothing else: styles, script and figures inline, nothing fetched."""

import re
from base64 import b64encode
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup

from ablations.claims import ColumnsWon, Comparison, Difference, Equivalence, GainDifference, LeadBelow
from reports.browser import Browser
from reports.claims_text import finding, published
from reports.contact_sheet import COLUMNS
from reports.document import Document
from reports.escape import for_html
from reports.verdicts import VERDICTS, ClaimResult, is_published
from reports.verdicts import published as published_estimate

PAGE = Path(__file__).parent / "page"
WIDTH, HEIGHT = 240, 44  # of a claim's drawing, in its own units


def render_html(document: Document) -> str:
    """The whole page; everything that comes from records is escaped."""
    counts = Counter(result.verdict for result in document.claims)
    browser = document.browser
    return template("page.html.j2").render(
        document=document,
        sprites=[Markup(uri) for uri in browser.uris()] if browser else [],
        browser_json=Markup(browser.to_json()) if browser else "",
        browser_text=_browser_text(browser) if browser else "",
        tally=[(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
        b64=lambda png: b64encode(png).decode("ascii"),
        finding=finding,
        published=published,
        interval=interval_drawing,
    )


def template(name: str) -> Template:
    """A page's template, which knows the common style and script and how tables are shown; what it prints is escaped."""
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, finalize=for_html, trim_blocks=True)
    environment.globals |= {
        "style": Markup(_read("style.css")),
        "script": Markup(_read("browser.js")),
        "unbroken": _unbroken,
        "badges": ("pass", "below", *VERDICTS),
    }
    return environment.get_template(name)


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _unbroken(text: str) -> str:
    """The text with what stands in square brackets, an interval, kept on one line."""
    return re.sub(r"\[[^\]]{,24}\]", lambda match: match[0].replace(" ", "\u00a0"), text)


def _browser_text(browser: Browser) -> str:
    return (
        f"{browser.shown:,} of {browser.total:,} scored images are in this page: of every run and task up to {COLUMNS} spread "
        f"evenly over the prompts, up to {COLUMNS} more that were judged wrong, and up to {COLUMNS} that could not be scored, "
        "so their share of wrong images is not the run's. Boxes are the detections that counted, with their confidence; colours "
        "of the thumbnails are reduced."
    )


def interval_drawing(result: ClaimResult) -> Markup:
    """An SVG line: the claim's bounds, the measured interval and estimate, and a published value as a hollow diamond."""
    if result.measured is None:
        return Markup("")
    low, high, estimate = result.measured.low, result.measured.high, result.measured.estimate
    bounds = _bounds(result.claim.comparison)
    papers = [published_estimate(result.claim)] if is_published(result.claim) else []
    counted = isinstance(result.claim.comparison, ColumnsWon)
    values = [low, high, estimate, *papers, *bounds, *([0, len(result.claim.columns)] if counted else [0])]
    first, span = min(values), (max(values) - min(values)) or 1.0

    def x(value: float) -> str:
        return f"{14 + (WIDTH - 28) * (value - first) / span:.1f}"

    color = {"reproduced": "good", "not": "bad", "inconclusive": "open"}.get(result.verdict.split()[0], "none")
    label = f"measured {estimate:.3f}, interval {low:.3f} to {high:.3f}" + "".join(f", published {paper:.3f}" for paper in papers)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    parts.append(f'<line x1="8" x2="{WIDTH - 8}" y1="20" y2="20" stroke="var(--line)"/>')
    for bound in bounds:
        text = f"{bound:.0f}" if counted or bound == 0 else f"{bound:+.2f}"
        parts.append(f'<line x1="{x(bound)}" x2="{x(bound)}" y1="10" y2="31" stroke="var(--soft)" stroke-dasharray="2 2"/>')
        parts.append(f'<text x="{x(bound)}" y="42" text-anchor="middle">{text}</text>')
    parts += [
        f'<line x1="{x(low)}" x2="{x(high)}" y1="20" y2="20" stroke="var(--{color})" stroke-width="5" stroke-linecap="round"/>',
        f'<circle cx="{x(estimate)}" cy="20" r="5" fill="var(--paper)" stroke="var(--{color})" stroke-width="2.5"/>',
    ]
    for paper in papers:
        at = x(paper)
        parts += [
            f'<path d="M{at} 14 l6 6 l-6 6 l-6 -6 z" fill="none" stroke="var(--ink)" stroke-width="1.3"/>',
            f'<text x="{at}" y="8" text-anchor="middle">paper</text>',
        ]
    return Markup("".join(parts) + "</svg>")


def _bounds(comparison: Comparison) -> list[float]:
    """Where the verdict of a comparison turns."""
    match comparison:
        case Difference() | GainDifference() | ColumnsWon():
            return [float(comparison.minimum)]
        case Equivalence():
            return [-comparison.bound, comparison.bound]
        case LeadBelow():
            return [comparison.bound]
