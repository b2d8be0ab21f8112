"""Verdicts at points of the learning curve and in other worlds: judged as the final ones are, never mixed with them."""

import json

import pandas as pd
import pytest

from ablations.registry import GRIDS
from reports.build import build_report
from reports.collect import select
from reports.levels import find_levels
from reports.runs import load_runs
from reports.ship import ship_results
from tests.reports.runs import make_items, make_result, write_curve, write_curve_items, write_geneval, write_run

WEAK = make_items(lambda task, index, sample: index == 0)
STRONG = make_items(lambda task, index, sample: index < 3)
HARDER = {"data.scenes.rotation": 0.5, "data.scenes.background": "graded"}


def write_pair(root, change=None, seeds=(0,), weak=WEAK, strong=STRONG):
    runs = {}
    for seed in seeds:
        for variant, items in (("pixel", weak), ("pixel_rf", strong)):
            runs[variant, seed] = write_run(root, variant, seed, change=change)
            write_geneval(runs[variant, seed], items)
    return runs


def records(tmp_path, name):
    build_report([tmp_path / "runs"], tmp_path / "out", "smoke")
    path = tmp_path / "out" / "tables" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else None


def levels(tmp_path):
    loaded = load_runs([tmp_path / "runs"])
    return find_levels([select(grid, "smoke", loaded) for grid in GRIDS.values()], loaded)


def test_each_step_has_the_verdict_of_its_own_images(tmp_path):
    runs = write_pair(tmp_path / "runs", seeds=(0, 1, 2))
    for (variant, _), run in runs.items():
        write_curve_items(run, 10, STRONG if variant == "pixel" else WEAK)  # early on the order is the other way round
        write_curve_items(run, 20, WEAK)
        write_curve_items(run, 30, WEAK if variant == "pixel" else STRONG)
    found = records(tmp_path, "verdicts-by-step")
    rows = dict(found[found["claim"] == "rf_beats_pixel"].set_index("step").iterrows())
    assert {step: row["verdict"] for step, row in rows.items()} == {
        "10": "not reproduced", "20": "inconclusive", "30": "reproduced", "final": "reproduced",
    }  # fmt: skip
    assert [rows[step]["estimate"] for step in ("10", "20", "30")] == pytest.approx([-0.5, 0, 0.5])
    assert (rows["10"]["seeds"], rows["10"]["n"]) == ("0 1 2", 3 * 2 * 48)
    assert set(found["claim"]) == {"rf_beats_pixel"}  # no other claim has its rows
    assert (tmp_path / "out" / "figures" / "verdicts-by-step.png").exists()


def test_curves_without_outcomes_or_of_one_row_alone_decide_nothing(tmp_path):
    runs = write_pair(tmp_path / "runs")
    write_curve(runs["pixel", 0], {10: 0.1})
    write_curve(runs["pixel_rf", 0], {10: 0.5})
    write_curve_items(runs["pixel", 0], 20, WEAK)
    assert records(tmp_path, "verdicts-by-step") is None
    assert "no claim has learning curves of all its rows" in (tmp_path / "out" / "report.md").read_text()


def test_a_world_that_alone_differs_is_a_level(tmp_path):
    write_pair(tmp_path / "runs")
    harder = write_pair(tmp_path / "runs" / "harder", HARDER, weak=STRONG, strong=WEAK)
    (level,) = levels(tmp_path)
    assert level.label == "rotation 0.5, background graded"
    assert {run.dir.path for run in level.runs} == {run.path for run in harder.values()}
    found = records(tmp_path, "verdicts-by-level").set_index("claim")
    row = found.loc["rf_beats_pixel"]
    assert (row["level"], row["verdict"]) == ("rotation 0.5, background graded", "disagrees with the paper (one seed)")
    assert row["estimate"] == pytest.approx(-0.5)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "agrees with the paper (one seed) | -0.50" in text  # the scale's own world beside it
    assert f"| {harder['pixel', 0].path} | levels |" in text
    assert "Left out" not in text  # it is shown


@pytest.mark.parametrize("change", [{**HARDER, "stages.joint.steps": 31}, {"stages.joint.steps": 31}])
def test_a_run_that_differs_in_anything_else_is_left_out(tmp_path, change):
    write_pair(tmp_path / "runs")
    write_pair(tmp_path / "runs" / "other", change)
    assert levels(tmp_path) == []
    assert records(tmp_path, "verdicts-by-level") is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.count("another config") >= 2
    assert "no runs of these variants in other worlds" in text


def test_without_harder_worlds_the_report_says_so(tmp_path):
    write_pair(tmp_path / "runs")
    assert levels(tmp_path) == []
    assert records(tmp_path, "verdicts-by-level") is None


@pytest.mark.parametrize(("reconstruction", "is_barred"), [(0.99, False), (0.4, True), (None, True)])
def test_a_level_is_barred_by_its_own_components(tmp_path, reconstruction, is_barred):
    for root, change in (("own", None), ("harder", HARDER)):
        for variant, items in (("vae", WEAK), ("vae_rf", STRONG)):
            write_geneval(write_run(tmp_path / "runs" / root, variant, 0, change=change), items)
    write_vae(tmp_path / "runs" / "own", 0.99)
    write_vae(tmp_path / "runs" / "harder", reconstruction, HARDER)
    found = records(tmp_path, "verdicts-by-level").set_index("claim")
    verdict = "inconclusive" if is_barred else "agrees with the paper (one seed)"
    assert found.loc["rf_helps_vae", "verdict"] == verdict
    own = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert next(claim["verdict"] for claim in own if claim["id"] == "rf_helps_vae") == "agrees with the paper (one seed)"


def write_vae(root, reconstruction, change=None):
    run = write_run(root, "stage-vae", 0, change=change)
    if reconstruction is not None:
        run.write_eval("geneval-vae-reconstruction", make_result(WEAK, metrics={"overall": reconstruction}))


def test_a_levels_components_are_shipped(tmp_path):
    write_pair(tmp_path / "runs" / "harder", HARDER)
    write_pair(tmp_path / "runs")
    write_geneval(write_run(tmp_path / "runs" / "harder", "vae", 0, change=HARDER), WEAK)
    write_vae(tmp_path / "runs" / "harder", 0.9, HARDER)
    shipped = ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    assert [path.parent.name for path in shipped].count("stage-vae") == 1
    build_report([tmp_path / "results"], tmp_path / "out", "smoke")
    assert "| levels |" in next(
        line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if "/stage-vae/" in line
    )
