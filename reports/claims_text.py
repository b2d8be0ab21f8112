"""A claim's result in words: what was measured, what the paper printed, where the evidence is."""

from reports.statistics import Interval, Wins
from reports.tables import show
from reports.verdicts import MIN_SEEDS, ClaimResult, is_published, published_text


def finding(result: ClaimResult) -> str:
    """What was measured for a claim, or why nothing was."""
    if result.measured is None:
        return f"Not run: {result.reason}."
    seeds = result.seeds
    runs = f"seed {seeds[0]}" if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds))
    text = f"Measured {measured_text(result, result.measured)}, {runs}, {result.n:,} items."
    if result.size is not None:
        text += f" In size {result.size:.0%} of the paper's."
    if result.reason:
        text += f" Not decided: {result.reason}."
    if len(seeds) < MIN_SEEDS:
        text += f" No verdict below {MIN_SEEDS} seeds{': training noise is not covered' if len(seeds) == 1 else ''}."
    return f"{text} {result.remark}".strip()


def measured_text(result: ClaimResult, measured: Interval | Wins) -> str:
    """`+0.253 [+0.193, +0.321] GenEval`, or `6 of 8 columns [4, 8]`."""
    if isinstance(measured, Wins):
        columns = len(result.claim.columns)
        return f"{measured.estimate:.0f} of {columns} columns [{measured.low:.0f}, {measured.high:.0f}]"
    return f"{show(measured, signed=True)} {result.unit}"


def published(result: ClaimResult) -> str:
    """What the paper printed for it."""
    if not is_published(result.claim):
        return "Not a claim of the paper's."
    return f"Paper: {published_text(result.claim)}, {result.claim.section}."
