"""The published numbers, kept apart from everything measured: only printed beside a measurement, never computed with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperTable:
    """`values[row key][column key]` as printed in the paper; rows may go beyond the grid that is run here."""

    grid: str
    source: str
    labels: dict[str, str]  # row key -> label as printed
    values: dict[str, dict[str, float]]


TABLE3A = PaperTable(
    grid="table3a",
    source="arXiv 2605.31604, Table 3a (GenEval at 256 px)",
    labels={"pixel": "Pixel", "pixel_rf": "Pixel+RF", "vae": "VAE", "vae_rf": "VAE+RF"},
    values={"pixel": {"geneval": 0.25}, "pixel_rf": {"geneval": 0.76}, "vae": {"geneval": 0.52}, "vae_rf": {"geneval": 0.77}},
)

PAPER_TABLES: dict[str, PaperTable] = {table.grid: table for table in (TABLE3A,)}
