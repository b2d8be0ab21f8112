"""The paper's claims as data: each names the two variants whose measured difference tests it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """`better` scores higher than `worse` in `column` of `table` by more than `minimum_difference`.

    `paper_better` and `paper_worse` are the published scores (fractions). They say what was claimed; the test is the
    ordering of the measured ones, because a small world's absolute scores are not the paper's.
    """

    id: str
    statement: str
    table: str
    section: str
    column: str
    better: str
    worse: str
    paper_better: float
    paper_worse: float
    minimum_difference: float = 0.0

    @property
    def paper_difference(self) -> float:
        return self.paper_better - self.paper_worse


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="rf_beats_pixel",
        statement="Pixel+RF beats Pixel",
        table="table3a",
        section="Sec. 4.4",
        column="geneval",
        better="pixel_rf",
        worse="pixel",
        paper_better=0.76,
        paper_worse=0.25,
    ),
)
