"""Notes on what the rows of a table do not share: from records of runs at `base`, without one weight."""

from pathlib import Path
from typing import Any

import pytest

from ablations.grid import GENEVAL
from ablations.registry import get_grid
from reports.collect import collect_scores, select
from reports.equal_data import difference_notes
from reports.results_tables import results_table
from reports.runs import load_runs
from reports.ship import thin
from rf_repro.core.files import append_jsonl, read_jsonl, write_jsonl
from tests.reports.runs import write_run

KEYS = ("understanding_samples", "generation_samples", "understanding_tokens", "generation_tokens")


def notes(root: Path, table: str, scale: str = "base") -> list[str]:
    return difference_notes(select(get_grid(table), scale, load_runs([root])))


def log(root: Path, variant: str, seed: int, *values: float, step: int = 20_000) -> Path:
    path = write_run(root, variant, seed, "base").metrics_path
    for at, factor in ((step // 2, 0.5), (step, 1.0)):  # a mean since the stage began: the last row counts
        row: dict[str, Any] = {"step": at, **{f"data/{key}": value * factor for key, value in zip(KEYS, values, strict=True)}}
        append_jsonl(path, row)
    return path


def test_what_rows_read_is_printed_under_their_table(tmp_path: Path) -> None:
    log(tmp_path, "pixel", 0, 681.25, 1459.5, 183_500, 340_451)
    log(tmp_path, "pixel_rf", 0, 681.25, 1296.5, 183_500, 340_468)
    log(tmp_path, "pixel", 1, 683.25, 1461.5, 183_400, 340_551)
    log(tmp_path, "pixel_rf", 1, 683.25, 1298.5, 183_400, 340_568)
    expected = (
        "Understanding and text samples of a step are equally many in these rows: 682.2. Samples to generate, which fill the "
        "rest of a pack: Pixel 1,460.5, Pixel+RF 1,297.5. Tokens of a step: Pixel 523,951, Pixel+RF 523,968 (runs' records)."
    )
    assert notes(tmp_path, "table3a") == [expected]
    runs = select(get_grid("table3a"), "base", load_runs([tmp_path]))
    table = results_table(runs, {GENEVAL.key: collect_scores(runs, GENEVAL)})
    assert expected in table.notes


def test_thinned_metrics_say_the_same(tmp_path: Path) -> None:
    path = log(tmp_path, "pixel", 0, 681.25, 1459.5, 183_500, 340_451)
    whole = notes(tmp_path, "table3a")
    write_jsonl(path, thin(read_jsonl(path), most=2)[-1:])
    assert notes(tmp_path, "table3a") == whole


@pytest.mark.parametrize("case", ["another number", "another step", "another seed"])
def test_what_is_not_equal_is_not_called_so(tmp_path: Path, case: str) -> None:
    log(tmp_path, "vlm_only", 0, 681.25, 0, 183_500, 0)
    changes: dict[str, Any] = {"another number": {}, "another step": {"step": 8000}, "another seed": {}}[case]
    count = 600.0 if case == "another number" else 681.25
    log(tmp_path, "pixel", int(case == "another seed"), count, 1459.5, 183_500, 340_451, **changes)
    [note] = notes(tmp_path, "table2")
    assert note.startswith(f"Understanding and text samples of a step: VLM-only 681.2, Pixel {count:,.1f}. ")
    assert "VLM-only 0.0, Pixel 1,459.5. Tokens of a step: VLM-only 183,500, Pixel 523,951" in note


def test_encoders_of_a_table_are_told_apart() -> None:
    def of(scale: str) -> list[str]:
        return difference_notes(select(get_grid("table3e"), scale, []))

    assert of("base") == [
        "Encoders: SigLIP-style siglip2-base-patch16-naflex, 86 million parameters, 12 layers of width 768, patches of 16 px; "
        "DINO-style dinov3-vitb16-pretrain-lvd1689m, 86 million parameters, 12 layers of width 768, patches of 16 px. They are "
        "of one size class, and differ in architecture and in what they were pretrained on."
    ]
    [paper] = of("paper")
    assert "siglip2-so400m-patch16-naflex, 413 million parameters, 27 layers of width 1152" in paper
    assert "dinov3-vith16plus-pretrain-lvd1689m, 841 million parameters, 32 layers of width 1280" in paper
    assert paper.endswith("The largest has 2.0 times the parameters of the smallest: they differ in size too.")
    assert of("tiny") == []


def test_tables_of_drawn_worlds_have_no_such_notes(tmp_path: Path) -> None:
    write_run(tmp_path, "pixel", 0)
    assert notes(tmp_path, "table3a", "smoke") == []
    assert notes(tmp_path, "table3a") == []  # nor has one without runs
