"""Shipped results are small, name no machine, and give the same report."""

import json

import pytest

from reports.build import build_report
from reports.ship import ship_results, thin
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from tests.reports.runs import make_items, write_curve, write_geneval, write_metrics, write_run, write_samples


def write_runs(root):
    for variant, top in (("pixel", 1), ("pixel_rf", 3)):
        run = write_run(root, variant, 0)
        items = make_items(lambda task, index, sample, top=top: index < top)
        write_geneval(run, items)
        write_metrics(run, range(1, 501), 0.1, codebook=variant == "pixel_rf")
        write_curve(run, {15: 0.1})
        write_samples(run, items)
        run.checkpoints.mkdir()
        (run.checkpoints / "weights").write_bytes(b"x" * 1000)
    write_run(root, "stage-pretrain", 0)


def test_a_report_from_shipped_runs_equals_the_one_from_the_runs(tmp_path):
    write_runs(tmp_path / "runs")
    shipped = ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    assert sorted(path.parent.name for path in shipped) == ["pixel", "pixel_rf", "stage-pretrain"]
    for source in ("runs", "results"):
        build_report([tmp_path / source], tmp_path / f"report-{source}", "smoke")
    first, second = tmp_path / "report-runs", tmp_path / "report-results"
    assert (first / "claims.json").read_bytes() == (second / "claims.json").read_bytes()
    for name in ("table3a", "table3a-tasks", "table3a-budget"):
        assert (first / "tables" / f"{name}.csv").read_bytes() == (second / "tables" / f"{name}.csv").read_bytes()
    picture = "figures/table3a-rf-beats-pixel-side-by-side.png"
    assert (first / picture).read_bytes() == (second / picture).read_bytes()


def test_only_records_travel_and_no_machine_is_named(tmp_path):
    write_runs(tmp_path / "runs")
    ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    run = RunDir(next((tmp_path / "results" / "pixel_rf").iterdir()))
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.json", "contact_sheet.png", "evals", "metrics.jsonl", "run.json",
    ]  # fmt: skip
    assert all("details" not in row and "reason" in row for row in run.eval_items("geneval"))
    assert [row["step"] for row in run.metrics()][:: len(run.metrics()) - 1] == [1, 500]
    assert len(run.metrics()) == 200
    (attempt,) = run.record().attempts
    assert (attempt.host, attempt.pid, attempt.device, attempt.seconds) == ("", 0, "cpu", 12.0)


def test_shipping_again_replaces_and_refuses_what_is_not_a_run(tmp_path):
    write_runs(tmp_path / "runs")
    first = ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    (first[0] / "stale").write_text("x")
    assert ship_results([tmp_path / "runs"], tmp_path / "results", "smoke") == first
    assert not (first[0] / "stale").exists()
    with pytest.raises(UserError, match="both a source and the destination"):
        ship_results([tmp_path / "results"], tmp_path / "results", "smoke")
    (first[0] / "run.json").unlink()
    with pytest.raises(UserError, match="not a run directory"):
        ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    assert not list((tmp_path / "results").glob("*/.*"))


def test_nothing_to_ship_is_an_error(tmp_path):
    write_runs(tmp_path / "runs")
    with pytest.raises(UserError, match="no run of any table at scale tiny"):
        ship_results([tmp_path / "runs"], tmp_path / "results", "tiny")


def test_thinning_keeps_both_ends_and_spreads_evenly():
    rows = [{"step": step} for step in range(1001)]
    kept = [row["step"] for row in thin(rows, 101)]
    assert kept == list(range(0, 1001, 10))
    assert thin(rows[:5], 5) == rows[:5]
    assert json.dumps(thin([], 5)) == "[]"
