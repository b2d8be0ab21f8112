"""The report from records to page: numbers by hand, reasons for what is missing, refusals, escaping."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from ablations.registry import GRIDS
from reports.build import build_report
from reports.paper_values import PAPER_TABLES
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import smoke
from rf_repro.config.schema import RESULTS_VERSION
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from tests.reports.runs import make_items, make_result, write_curve, write_geneval, write_metrics, write_run, write_samples

WEAK = make_items(lambda task, index, sample: index == 0)  # 0.25 in each task
STRONG = make_items(lambda task, index, sample: index < 3)  # 0.75


def write_grid(root, seeds=(0,), weak=WEAK, strong=STRONG):
    runs = {}
    for seed in seeds:
        for variant, items in (("pixel", weak), ("pixel_rf", strong)):
            runs[variant, seed] = write_run(root, variant, seed)
            write_geneval(runs[variant, seed], items)
    return runs


def report(tmp_path, scale="smoke"):
    """(report.md, report.html, the first claim) of the runs below `tmp_path/runs`."""
    page = build_report([tmp_path / "runs"], tmp_path / "out", scale)
    claims = json.loads((tmp_path / "out" / "claims.json").read_text())
    return (tmp_path / "out" / "report.md").read_text(), page.read_text(), claims[0]


def read_table(tmp_path, name):
    with open(tmp_path / "out" / "tables" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_records(tmp_path):
    write_grid(tmp_path / "runs", seeds=(0, 1, 2))
    text, page, claim = report(tmp_path)
    assert set(claim) == {
        "id",
        "table",
        "statement",
        "verdict",
        "p_fails",
        "p_holds",
        "paper",
        "difference",
        "low",
        "high",
        "scale",
        "seeds",
        "n",
    }
    assert (claim["id"], claim["verdict"], claim["scale"], claim["seeds"]) == ("rf_beats_pixel", "reproduced", "smoke", [0, 1, 2])
    assert (claim["difference"], claim["n"]) == (pytest.approx(0.5), 2 * 3 * 48)
    assert 0 < claim["low"] < 0.5 < claim["high"] < 1
    assert "Table 3a at scale smoke (procedural scenes, 24 px)" in text
    assert re.search(r"\| Pixel \| 0\.250 \[0\.\d{3}, 0\.\d{3}\] \| 0\.25 \| 144 \| 0, 1, 2 \|", text)
    assert re.search(r"\| Pixel\+RF \| 0\.750 \[0\.\d{3}, 0\.\d{3}\] \| 0\.76 \| 144 \| 0, 1, 2 \|", text)
    assert "| VAE | not run: no vae run at scale smoke | 0.52 | 0 | none |" in text
    assert re.search(r"\| Measured here: Pixel\+RF \| 0\.75 \[0\.\d\d, [01]\.\d\d\] .* \| not run: no DPG", text)
    rows = {row["row"]: row for row in read_table(tmp_path, "table3a")}
    assert (float(rows["pixel"]["measured"]), float(rows["pixel_rf"]["measured"])) == pytest.approx((0.25, 0.75))
    assert (rows["pixel_rf"]["n"], rows["pixel_rf"]["paper"], rows["pixel_rf"]["notes"]) == ("144", "0.76", "")
    tasks = {(row["row"], row["task"]): float(row["measured"]) for row in read_table(tmp_path, "table3a-tasks")}
    assert tasks["pixel", "position"] == 0.25
    assert tasks["Pixel+RF − Pixel", "position"] == pytest.approx(0.5)
    for shown in ("0.250 [", "0.750 [", "reproduced", "Table 3a at scale smoke"):
        assert shown in page


def test_the_verdict_follows_the_interval(tmp_path):
    coin = make_items(lambda task, index, sample: (index + sample) % 2 == 0)
    nearly = make_items(lambda task, index, sample: (index + sample) % 2 == 0 or (task == "colors" and index == 0))
    expected = {"reproduced": (WEAK, STRONG), "not reproduced": (STRONG, WEAK), "inconclusive": (coin, nearly)}
    for verdict, (weak, strong) in expected.items():
        write_grid(tmp_path / verdict / "runs", weak=weak, strong=strong, seeds=(0, 1, 2))
        _, _, claim = report(tmp_path / verdict)
        assert claim["verdict"] == verdict
        assert (claim["low"] > 0, claim["high"] < 0) == (verdict == "reproduced", verdict == "not reproduced")


def test_one_seed_and_three_seeds_say_what_their_intervals_cover(tmp_path):
    write_grid(tmp_path / "one" / "runs")
    write_grid(tmp_path / "three" / "runs", seeds=(0, 1, 2))
    one, three = report(tmp_path / "one")[0], report(tmp_path / "three")[0]
    assert "from one training seed (0): they do not cover training noise" in one
    assert "No verdict below 3 seeds: training noise is not covered." in one
    assert "over 3 training seeds (0, 1, 2): they cover prompts and training noise" in three
    assert "same first stage (stage-pretrain/abc-s0)" in three
    assert "does not cover training" not in three
    assert "No verdict" not in three


def test_with_no_runs_every_cell_gives_the_reason(tmp_path):
    (tmp_path / "runs").mkdir()
    text, page, claim = report(tmp_path)
    assert (claim["verdict"], claim["difference"], claim["seeds"], claim["n"]) == ("not run", None, [], 0)
    for grid in GRIDS.values():
        for row in grid.rows:
            assert text.count(f"not run: no {row.key} run at scale smoke") >= len(grid.columns)
            assert page.count(f"not run: no {row.key} run at scale smoke") >= len(grid.columns)
    assert build_report([], tmp_path / "other", "smoke").exists()
    assert not list((tmp_path / "out").glob("figures/*"))


def test_a_folder_that_does_not_exist_and_an_out_that_is_a_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        build_report([tmp_path / "nowhere"], tmp_path / "out", "smoke")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="name a folder"):
        build_report([], tmp_path / "file", "smoke")
    with pytest.raises(UserError, match="scale 'huge'"):
        build_report([], tmp_path / "out", "huge")


def test_what_is_missing_is_footnoted_and_never_averaged_away_silently(tmp_path):
    runs = write_grid(tmp_path / "runs", seeds=(0, 1))
    partly = make_items(lambda task, index, sample: None if (index, sample) == (0, 0) else index < 3)
    write_geneval(runs["pixel_rf", 1], partly)
    crashed = write_run(tmp_path / "runs", "pixel_rf", 2)
    failure = replace(crashed.record().attempts[0], error="loss is NaN")
    crashed.write_record(replace(crashed.record(), status="failed", attempts=[failure]))
    write_metrics(crashed, [7], 1.0, codebook=False)
    text, _, claim = report(tmp_path)
    assert re.search(r"Pixel\+RF \| [^|]* \(b, c\) \| 0\.76 \| 90 \| 0, 1 \|", text)
    assert re.search(r"Pixel \| [^|]* \(a\) \| 0\.25 \| 96 \| 0, 1 \|", text)
    assert "(b) seed 1: 42 of 48 images scored." in text
    assert "(c) seed 2 failed at step 7 (loss is NaN); not in the mean." in text
    assert "(a) seed 2 not run; not in the mean." in text
    measured = {row["row"]: float(row["measured"]) for row in read_table(tmp_path, "table3a") if row["measured"]}
    assert measured["pixel_rf"] == pytest.approx((6 / 8 + 5 / 7) / 2)
    assert claim["seeds"] == [0, 1]


def test_an_unfinished_run_or_one_without_a_score_says_so_in_its_cell(tmp_path):
    runs = write_grid(tmp_path / "runs")
    (runs["pixel", 0].evals / "geneval.json").unlink()
    waiting = write_run(tmp_path / "runs", "pixel", 1)
    waiting.write_record(replace(waiting.record(), status="planned", attempts=[]))
    metrics = {**make_result(STRONG).metrics, "colors": None, "overall": None}
    write_geneval(runs["pixel_rf", 0], STRONG, metrics=metrics, missing={"overall": "no score for colors"})
    text, _, claim = report(tmp_path)
    assert "not run: seed 0 not evaluated; seed 1 not started" in text
    assert "not run: seed 0 has no overall score: no score for colors" in text
    assert claim["verdict"] == "not run"


def test_runs_of_another_config_are_left_out_and_listed(tmp_path):
    write_grid(tmp_path / "runs")
    other = write_run(tmp_path / "runs", "pixel", 1, change={"stages.joint.steps": 31})
    write_geneval(other, STRONG)
    text, _, claim = report(tmp_path)
    assert claim["seeds"] == [0]
    assert claim["difference"] == pytest.approx(0.5)
    assert f"Left out: {other.path}: another config ({other.record().config_hash[:12]}" in text


def test_runs_of_another_results_version_are_left_out_and_say_so(tmp_path, monkeypatch):
    runs = write_grid(tmp_path / "runs")
    monkeypatch.setattr("reports.collect.RESULTS_VERSION", RESULTS_VERSION + 2)
    config = apply_overrides(smoke(), {"stages.joint.steps": 31})
    digest = config.result_hash(RESULTS_VERSION + 1)
    before = RunDir.create(tmp_path / "runs", config.to_dict(), digest, "smoke", "pixel", 1)
    write_geneval(before, STRONG)
    text, _, claim = report(tmp_path)
    assert claim["seeds"] == [0]
    wanted = f"{before.path}: of results version {RESULTS_VERSION + 1}, this code's is {RESULTS_VERSION + 2}; train it anew."
    assert f"Left out: {wanted}" in text
    assert str(runs["pixel", 0].path) in text


def test_another_results_version_is_another_hash():
    hashes = {smoke().result_hash(version) for version in (1, 2, 3)}
    assert len(hashes) == 3
    assert smoke().result_hash() == smoke().result_hash(RESULTS_VERSION)


def test_a_report_of_several_revisions_says_so(tmp_path):
    runs = write_grid(tmp_path / "runs")
    assert "revisions of one results version" not in report(tmp_path)[0]
    run = runs["pixel_rf", 0]
    run.write_record(replace(run.record(), revision="1" * 40))
    assert f"These runs are of 2 revisions of one results version ({RESULTS_VERSION})" in report(tmp_path)[0]


def test_a_run_given_twice_counts_once(tmp_path):
    for name in ("first", "second"):
        write_grid(tmp_path / name)
    build_report([tmp_path / "first", tmp_path / "first" / "smoke", tmp_path / "second"], tmp_path / "out", "smoke")
    assert json.loads((tmp_path / "out" / "claims.json").read_text())[0]["n"] == 96
    assert (tmp_path / "out" / "report.md").read_text().count("the same run as") == 2


def test_mixed_protocols_are_refused_with_both_records_named(tmp_path):
    runs = write_grid(tmp_path / "runs")
    write_geneval(runs["pixel_rf", 0], STRONG, protocol="geneval-ffffffff")
    with pytest.raises(UserError, match=r"geneval-00000000.*pixel.*geneval-ffffffff.*pixel_rf"):
        report(tmp_path)


def test_mixed_protocols_of_learning_curves_are_refused(tmp_path):
    runs = write_grid(tmp_path / "runs")
    write_curve(runs["pixel", 0], {15: 0.2})
    other = EvalResult("geneval", "geneval-other", {"overall": 0.5}, 12, 12, step=15)
    runs["pixel_rf", 0].write_eval("geneval-step000015", other)
    with pytest.raises(UserError, match=r"curves.*geneval-curve.*geneval-other"):
        report(tmp_path)


def test_text_from_records_cannot_inject_html_or_break_a_table(tmp_path):
    nasty = "<script>alert({index})</script> | {task} [x](javascript:1)"
    sides = [make_items(lambda task, index, sample, top=top: index < top, text=nasty) for top in (1, 3)]
    runs = write_grid(tmp_path / "runs", weak=sides[0], strong=sides[1])
    for run in runs.values():
        write_samples(run, WEAK)
    text, page, _ = report(tmp_path)
    assert "&lt;script&gt;alert(0)&lt;/script&gt;" in page
    assert "&lt;script>alert(0)&lt;/script> \\| single_object [x]\\(javascript:1)" in text
    assert "<script>alert" not in page
    assert "<script" not in text
    inside = re.search(r'<script type="application/json" id="browser-data">(.*?)</script>', page, re.DOTALL)
    assert not set("<>&") & set(inside[1])  # it cannot end its script element
    assert "<script>alert(0)</script> | single_object [x](javascript:1)" in json.loads(inside[1])["texts"]


def test_curves_budgets_gates_pictures_and_provenance(tmp_path):
    runs = write_grid(tmp_path / "runs")
    for (variant, _), run in runs.items():
        write_metrics(run, [10, 20, 30], 1.0 if variant == "pixel" else 2.0, codebook=variant == "pixel_rf")
        write_curve(run, {15: 0.1 if variant == "pixel" else 0.5})
        write_samples(run, STRONG)
    probe = EvalResult("codebook-probe", "probe-1", {"shape": 0.84, "color": 0.96}, 100, 100)
    runs["pixel_rf", 0].write_eval("codebook-probe", probe)
    stage = write_run(tmp_path / "runs", "stage-pretrain", 0)
    stage.write_eval("geneval-ground-truth", EvalResult("geneval", "p", {"overall": 0.985}, 48, 48))
    text, page, _ = report(tmp_path)
    # 30 s is 30 steps of Pixel (its final score) and 15 steps of Pixel+RF (the point on its curve)
    assert "At equal training compute (30 s): Pixel+RF 0.500 against Pixel 0.250." in text
    budgets = {(row["row"], row["axis"]): float(row["score"]) for row in read_table(tmp_path, "table3a-budget")}
    assert budgets == pytest.approx(
        {("pixel", "step"): 0.25, ("pixel_rf", "step"): 0.75, ("pixel", "seconds"): 0.25, ("pixel_rf", "seconds"): 0.5}
    )
    assert "Training compute a step: Pixel 0.100 s (1.00x), Pixel+RF 0.133 s (1.33x)." in text
    gates = {row["gate"]: row["passed"] for row in read_table(tmp_path, "gates")}
    assert gates == {
        "Detector on rendered images (ground truth)": "True",
        "Shape from codes, linear probe": "False",
        "Colour from codes, linear probe": "True",
    }
    assert "| GenEval with ground-truth R tokens | none | not run |" in text
    for run in (*runs.values(), stage):
        assert f"| {run.path} |" in text
    assert 'representation.kind: "none" → "discrete"' in text
    assert f"{runs['pixel', 0].evals / 'geneval.json'}" in text
    names = {"table3a-tasks", "table3a-curves", "losses", "codebook", "table3a-side-by-side", "table3a-samples"}
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == names
    assert page.count('src="data:image/png;base64,') == len(names)
    assert page.count("url(data:image/png;base64,") == 2  # one sheet a run: it leaves no wrong image for a second
    assert "http" not in page.replace('xmlns="http', "")  # nothing is fetched
    for path in (tmp_path / "out" / "figures").iterdir():
        with Image.open(path) as image:
            assert image.width > 800


def test_different_devices_make_compute_incomparable_and_the_report_says_so(tmp_path):
    runs = write_grid(tmp_path / "runs")
    for (variant, _), run in runs.items():
        write_metrics(run, [30], 1.0, codebook=False)
        attempt = replace(run.record().attempts[0], device="cpu" if variant == "pixel" else "cuda")
        run.write_record(replace(run.record(), attempts=[attempt]))
    assert "trained on different devices (cpu, 1 thread; cuda, 1 thread)" in report(tmp_path)[0]


def test_runs_in_progress_without_a_common_step_still_give_a_report(tmp_path):
    for seed, steps in ((0, [10, 20]), (1, [15])):
        run = write_run(tmp_path / "runs", "pixel", seed)
        run.write_record(replace(run.record(), status="running"))
        write_metrics(run, steps, 1.0, codebook=False)
    text, _, claim = report(tmp_path)
    assert "not run: seed 0 unfinished at step 20; seed 1 unfinished at step 15" in text
    assert "Equal budgets are not compared" in text
    assert claim["verdict"] == "not run"
    assert [path.stem for path in (tmp_path / "out" / "figures").iterdir()] == ["losses"]


def test_the_same_runs_give_the_same_bytes_and_stale_files_go(tmp_path):
    runs = write_grid(tmp_path / "runs")
    for run in runs.values():
        write_samples(run, STRONG)
    report(tmp_path)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    report(tmp_path)
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out" / "figures" / "mine.png").write_bytes(b"kept")
    for run in runs.values():
        (run.evals / "geneval.json").unlink()
    report(tmp_path)
    assert [path.name for path in (tmp_path / "out" / "figures").iterdir()] == ["mine.png"]


def test_the_claims_paper_numbers_never_reach_the_measured_column(tmp_path, monkeypatch):
    write_grid(tmp_path / "runs")
    before = read_measured(tmp_path)
    monkeypatch.setitem(PAPER_TABLES["table3a"].values, "pixel", {"geneval": 0.99})
    assert read_measured(tmp_path) == before


def read_measured(tmp_path):
    report(tmp_path)
    rows = read_table(tmp_path, "table3a") + read_table(tmp_path, "table3a-tasks")
    return [(row["measured"], row["low"], row["high"]) for row in rows]


def test_reports_and_ablations_never_import_torch(tmp_path):
    write_grid(tmp_path / "runs")
    code = (
        "import sys, pathlib, ablations.registry, ablations.claims, reports.ship\n"
        "from reports.build import build_report\n"
        f"build_report([pathlib.Path({str(tmp_path / 'runs')!r})], pathlib.Path({str(tmp_path / 'out')!r}), 'smoke')\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
