"""Tables 1, 2 and 3a to 3e of arXiv 2605.31604 as printed. Percentages are stored as fractions."""

from dataclasses import dataclass

from ablations.questions import MIRRORS

PAPER = "arXiv 2605.31604"


@dataclass(frozen=True)
class PaperTable:
    """`values[row key][column]` as printed, a column that the paper leaves empty being absent.

    Attributes:
        grid: name of the table, with or without a grid that runs it.
        labels: row key -> label as printed.
        columns: column in `values` -> header as printed.
        digits: decimals of the fractions that the paper prints.
    """

    grid: str
    source: str
    labels: dict[str, str]
    columns: dict[str, str]
    values: dict[str, dict[str, float]]
    digits: int = 2

    def value(self, row: str, column: str) -> float | None:
        """What the paper has for a grid's row in a grid's column, or in the benchmark that a question type mirrors."""
        return self.values.get(row, {}).get(MIRRORS.get(column, column))


def paper_table(grid: str) -> PaperTable:
    """The published table that a grid reruns; one without rows for a table of this project's own."""
    return PAPER_TABLES.get(grid) or PaperTable(grid, "not a table of the paper", {}, {}, {})


def _geneval(grid: str, rows: dict[str, tuple[str, float]]) -> PaperTable:
    """A table of Sec. 4.4 with one column. rows: row key -> (label, score)."""
    source = f"{PAPER}, {grid.replace('table', 'Table ')} (GenEval at 256 px)"
    labels = {key: label for key, (label, _) in rows.items()}
    return PaperTable(grid, source, labels, {"geneval": "GenEval"}, {key: {"geneval": score} for key, (_, score) in rows.items()})


def _percent(columns: tuple[str, ...], rows: dict[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    """Row key -> column -> fraction."""
    return {
        key: {column: round(value / 100, 3) for column, value in zip(columns, values, strict=True)}
        for key, values in rows.items()
    }


_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def _system(tasks: tuple[float, ...] | None, geneval: float, dpg: float | None) -> dict[str, float]:
    """A row of Table 1; DPG is printed in percent."""
    values = dict(zip(_TASKS, tasks, strict=True)) if tasks else {}
    return {**values, "geneval": geneval, **({} if dpg is None else {"dpg": round(dpg / 100, 4)})}


TABLE1 = PaperTable(
    grid="table1",
    source=f"{PAPER}, Table 1 (1024 px; † = prompts rewritten by a language model)",
    labels={
        "bagel": "BAGEL",
        "bagel_rewritten": "BAGEL†",
        "janus_pro": "Janus-Pro-7B",
        "show_o2": "Show-o2",
        "blip3o": "BLIP3-o",
        "transfusion": "Transfusion",
        "rf_pixel": "RF-Pixel",
        "rf_pixel_rewritten": "RF-Pixel†",
    },
    columns={
        "single_object": "Single",
        "two_object": "Two",
        "counting": "Count",
        "colors": "Colors",
        "position": "Position",
        "color_attr": "Attribution",
        "geneval": "GenEval",
        "dpg": "DPG",
    },
    values={
        "bagel": _system((0.99, 0.94, 0.81, 0.88, 0.64, 0.63), 0.82, 85.07),
        "bagel_rewritten": _system((0.98, 0.95, 0.84, 0.95, 0.78, 0.77), 0.88, None),
        "janus_pro": _system((0.99, 0.89, 0.59, 0.90, 0.79, 0.66), 0.80, 84.19),
        "show_o2": _system((1.00, 0.87, 0.58, 0.92, 0.52, 0.62), 0.76, 86.14),
        "blip3o": _system(None, 0.84, 81.60),
        "transfusion": _system(None, 0.63, None),
        "rf_pixel": _system((0.99, 0.93, 0.84, 0.89, 0.74, 0.66), 0.84, 84.15),
        "rf_pixel_rewritten": _system((0.98, 0.95, 0.88, 0.87, 0.92, 0.70), 0.88, None),
    },
)

_BENCHMARKS = ("MMMU", "HalluBench", "MME*", "BLINK", "RealWorldQA", "AI2D", "DocVQA", "ChartQA")

TABLE2 = PaperTable(
    grid="table2",
    source=f"{PAPER}, Table 2 (MME* = mean accuracy over all perception and cognition questions)",
    labels={"vlm_only": "VLM-only", "vae": "VAE", "vae_rf": "VAE+RF", "pixel": "Pixel", "pixel_rf": "Pixel+RF"},
    columns={name: name for name in _BENCHMARKS},
    values=_percent(
        _BENCHMARKS,
        {
            "vlm_only": (56.2, 65.0, 79.7, 56.2, 65.8, 90.3, 89.3, 86.0),
            "vae": (51.0, 55.7, 71.3, 52.2, 65.2, 90.7, 90.0, 78.8),
            "vae_rf": (49.6, 61.3, 79.3, 52.9, 66.6, 87.8, 88.3, 80.5),
            "pixel": (49.9, 63.7, 76.6, 49.4, 63.1, 85.8, 90.0, 81.7),
            "pixel_rf": (54.2, 64.8, 80.2, 53.0, 65.8, 90.3, 88.0, 81.3),
        },
    ),
    digits=3,
)

TABLE3A = _geneval(
    "table3a", {"pixel": ("Pixel", 0.25), "pixel_rf": ("Pixel+RF", 0.76), "vae": ("VAE", 0.52), "vae_rf": ("VAE+RF", 0.77)}
)
TABLE3B = _geneval("table3b", {"pixel": ("None", 0.25), "repa": ("REPA", 0.43), "pixel_rf": ("RF", 0.76)})
TABLE3C = _geneval("table3c", {"pixel": ("None", 0.25), "continuous": ("Continuous", 0.26), "pixel_rf": ("Discrete", 0.76)})
TABLE3D = _geneval("table3d", {"pixel_rf": ("K = 16,384", 0.76), "pixel_rf_k_double": ("K = 32,768", 0.77)})

TABLE3E = PaperTable(
    grid="table3e",
    source=f"{PAPER}, Table 3e (VLM-only)",
    labels={"vlm_siglip": "SigLIP2", "vlm_dino": "DINOv3"},
    columns={name: name for name in _BENCHMARKS[:5]},
    values=_percent(_BENCHMARKS[:5], {"vlm_siglip": (56.3, 64.4, 76.8, 53.4, 62.5), "vlm_dino": (56.2, 65.0, 79.7, 56.2, 65.8)}),
    digits=3,
)

PAPER_TABLES: dict[str, PaperTable] = {
    table.grid: table for table in (TABLE1, TABLE2, TABLE3A, TABLE3B, TABLE3C, TABLE3D, TABLE3E)
}
