"""The printed summary: columns as wide as their labels, and the paper's rows as they always were."""

from dataclasses import replace
from pathlib import Path

from ablations.grid import AblationGrid
from ablations.registry import GRIDS
from reports.summary import summary
from rf_repro.config.scales import smoke
from tests.reports.runs import make_items, write_geneval, write_run


def test_the_papers_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path, "pixel", 0)
    write_geneval(run, make_items(lambda task, index, sample: index < 3))
    assert summary(smoke(), [run], [GRIDS["table3a"]], [])[2:] == [
        "  Pixel           GenEval   0.750 (0.750 by seed)",
        "  Pixel+RF        GenEval   not run",
        "  VAE             GenEval   not run",
        "  VAE+RF          GenEval   not run",
    ]


def test_longer_labels_do_not_run_into_what_follows() -> None:
    table = GRIDS["table3a"]
    rows = (table.rows[0], table.rows[1].labelled("Pixel+RF, two codes"))
    columns = (*table.columns, replace(table.columns[0], key="long", label="GenEval, held out"))
    assert _lines(replace(table, rows=rows, columns=columns)) == [
        "  Pixel                GenEval            not run",
        "  Pixel                GenEval, held out  not run",
        "  Pixel+RF, two codes  GenEval            not run",
        "  Pixel+RF, two codes  GenEval, held out  not run",
    ]


def test_a_metric_that_a_record_lacks_is_not_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, "pixel", 0)
    write_geneval(run, make_items(lambda task, index, sample: True))
    column = replace(GRIDS["table3a"].columns[0], metric="nowhere")
    (line, *_) = summary(smoke(), [run], [replace(GRIDS["table3a"], columns=(column,))], [])[2:]
    assert line == "  Pixel           GenEval   not run"


def _lines(table: AblationGrid) -> list[str]:
    return summary(smoke(), [], [table], [])[2:]
