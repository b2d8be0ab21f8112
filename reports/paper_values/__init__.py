"""The published numbers, kept apart from everything measured: only printed beside a measurement, never computed with it."""

from reports.paper_values.tables import PAPER_TABLES, PaperTable, paper_table

__all__ = ["PAPER_TABLES", "PaperTable", "paper_table"]
