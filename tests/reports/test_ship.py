"""Shipped results are small, name no machine, and give the same report."""

import json
import re
from dataclasses import replace

import pytest

from ablations.grid import GENEVAL_TASKS
from reports.build import build_report
from reports.contact_sheet import read_sheets
from reports.ship import ship_results, thin
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_jsonl
from rf_repro.core.run_dir import RunDir
from tests.reports.runs import (
    make_items,
    make_result,
    write_curve_items,
    write_geneval,
    write_metrics,
    write_questions,
    write_run,
    write_samples,
)


def write_runs(root):
    for variant, top in (("pixel", 1), ("pixel_rf", 3)):
        run = write_run(root, variant, 0)
        items = make_items(lambda task, index, sample, top=top: index < top, prompts=8)
        write_geneval(run, items)
        write_metrics(run, range(1, 501), 0.1, codebook=variant == "pixel_rf")
        write_curve_items(run, 15, items[::2])
        write_questions(run, lambda kind, index, top=top: index < top)
        write_samples(run, items)
        write_jsonl(run.evals / "geneval-ground-truth-representation.items.jsonl", items)
        run.write_eval("geneval-ground-truth-representation", make_result(items))
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
    same = json.loads((first / "files.json").read_text())
    assert json.loads((second / "files.json").read_text()).keys() == same.keys()
    # Logged curves are thinned, and the tables of provenance name other folders.
    different = {"figures/losses.png", "figures/codebook.png", "figures/table3a-curves.png"}
    different |= {f"tables/{name}.{kind}" for name in ("runs", "sources") for kind in ("csv", "parquet")}
    for name in ["claims.json", *sorted(set(same) - different)]:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    pages = [(folder / "report.html").read_text() for folder in (first, second)]
    browsers = [re.search(r'<script type="application/json".*?</script>', page, re.DOTALL) for page in pages]
    assert browsers[0] is not None
    assert browsers[0][0] == browsers[1][0]


def test_only_finished_runs_are_published(tmp_path):
    write_runs(tmp_path / "runs")
    half = next(run for run in RunDir.find(tmp_path / "runs") if run.record().variant == "pixel")
    half.write_record(replace(half.record(), status="running"))
    shipped = ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    assert sorted(path.parent.name for path in shipped) == ["pixel_rf", "stage-pretrain"]


def test_only_records_travel_and_no_machine_is_named(tmp_path):
    write_runs(tmp_path / "runs")
    ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    run = RunDir(next((tmp_path / "results" / "pixel_rf").iterdir()))
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.json", "contact_sheet.png", "evals", "metrics.jsonl", "run.json", "wrong_sheet.png",
    ]  # fmt: skip
    assert sorted(path.name for path in run.evals.iterdir()) == [
        "geneval-ground-truth-representation.json", "geneval-step000015.items.jsonl.gz", "geneval-step000015.json",
        "geneval.items.jsonl.gz", "geneval.json", "questions.items.jsonl.gz", "questions.json",
    ]  # fmt: skip
    assert run.eval_result("geneval-ground-truth-representation").items is None
    assert [row["step"] for row in run.metrics()][:: len(run.metrics()) - 1] == [1, 500]
    assert len(run.metrics()) == 200
    (attempt,) = run.record().attempts
    assert (attempt.host, attempt.pid, attempt.device, attempt.seconds) == ("", 0, "cpu", 12.0)


def test_items_keep_what_the_report_reads_and_boxes_only_of_shipped_images(tmp_path):
    write_runs(tmp_path / "runs")
    ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    source, copy = (next(tmp_path.glob(f"{root}/**/pixel/*-s0")) for root in ("runs", "results"))
    before, after = RunDir(source).eval_items("geneval"), RunDir(copy).eval_items("geneval")
    sheets = read_sheets(RunDir(copy), after, GENEVAL_TASKS).values()
    pictured = {place for sheet in sheets for place in sheet.places()}
    assert 0 < len(pictured) <= len(before)
    for old, new in zip(before, after, strict=True):
        assert (new["correct"], new["prompt"], new.get("reason", "")) == (old["correct"], old["prompt"], old["reason"])
        assert ("details" in new) == ((new["prompt_id"], new["sample"]) in pictured)
    question = RunDir(copy).eval_items("questions")[0]
    assert question.keys() == {"tag", "prompt", "question_id", "expected", "answer", "correct"}


def test_shipping_again_replaces_and_refuses_what_is_not_a_run(tmp_path):
    write_runs(tmp_path / "runs")
    first = ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    (first[0] / "evals" / "stale.json").write_text("x")
    assert ship_results([tmp_path / "runs"], tmp_path / "results", "smoke") == first
    assert not (first[0] / "evals" / "stale.json").exists()
    (first[0] / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which was not made here"):
        ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    (first[0] / "thesis.txt").unlink()
    with pytest.raises(UserError, match="both a source and the destination"):
        ship_results([tmp_path / "results"], tmp_path / "results", "smoke")
    (first[0] / "run.json").unlink()
    with pytest.raises(UserError, match="not a run directory"):
        ship_results([tmp_path / "runs"], tmp_path / "results", "smoke")
    assert not list((tmp_path / "results").glob("*/.*"))


def test_nothing_to_ship_is_an_error(tmp_path):
    write_runs(tmp_path / "runs")
    with pytest.raises(UserError, match="no finished run of any table at scale tiny"):
        ship_results([tmp_path / "runs"], tmp_path / "results", "tiny")


def test_thinning_keeps_both_ends_and_spreads_evenly():
    rows = [{"step": step} for step in range(1001)]
    kept = [row["step"] for row in thin(rows, 101)]
    assert kept == list(range(0, 1001, 10))
    assert thin(rows[:5], 5) == rows[:5]
    assert json.dumps(thin([], 5)) == "[]"
